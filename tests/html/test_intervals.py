import re
from xml.etree import ElementTree

import pytest

from mmkdml.html import IntervalAxis

NAN = float('nan')


def lines(svg):
    """Return x of both ends of each line by its class."""
    root = ElementTree.fromstring(svg)
    return {
        line.attrib['class']: (float(line.attrib['x1']), float(line.attrib['x2']))
        for line in root.iter('line')
    }


def test_axis_shows_zero_and_all_numbers():
    assert IntervalAxis.of([2.0, NAN, 3.0]) == IntervalAxis(0, 3)
    assert IntervalAxis.of([-2.0, -1.0]) == IntervalAxis(-2, 0)
    assert IntervalAxis.of([]) == IntervalAxis(-1, 1)


def test_intervals_are_in_proportion():
    axis = IntervalAxis(-10, 10)
    found = lines(axis.plot(1, (0, 5), (-10, 10), 'good'))
    left, right = found['outer']
    center = (left + right) / 2
    assert found['zero'] == pytest.approx((center, center))
    assert found['inner'] == pytest.approx((center, center + (right - left) / 4), abs=0.1)
    (marker,) = re.findall(r'<circle cx="([\d.]+)"', axis.plot(1, (0, 5), None, 'good'))
    assert float(marker) == pytest.approx(center + (right - left) / 20, abs=0.1)


def test_verdicts_differ_in_marker_and_class():
    axis = IntervalAxis(-1, 1)
    plots = {kind: axis.plot(0, (0, 0), kind=kind) for kind in ('good', 'bad', 'neutral')}
    markers = {re.sub('<line.*?>|class="[^"]*"', '', plot) for plot in plots.values()}
    assert len(markers) == 3
    assert all(f'class="forest {kind}"' in plot for kind, plot in plots.items())


def test_unknown_outer_interval_is_not_drawn():
    assert 'outer' not in lines(IntervalAxis(-1, 1).plot(0, (0, 1), (NAN, NAN)))


def test_ticks_are_inside_of_the_axis():
    root = ElementTree.fromstring(IntervalAxis(-3.3, 17).ticks())
    numbers = [float(text.text) for text in root.iter('text')]
    assert numbers[0] >= -3.3
    assert numbers[-1] <= 17
    assert 0 in numbers
    assert 3 <= len(numbers) <= 7
