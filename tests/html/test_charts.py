import math
import re
from xml.etree import ElementTree

import pytest

from mmkdml.html import Line, line_chart

SVG = '{http://www.w3.org/2000/svg}'


def draw(*lines):
    return ElementTree.fromstring(
        str(line_chart(lines, 'epoch', 'a chart')).replace('<svg', f'<svg xmlns="{SVG[1:-1]}"', 1)
    )


def paths(svg):
    return [one for one in svg.iter(f'{SVG}path') if one.get('class') == 'line']


def test_points_are_drawn_to_scale():
    svg = draw(Line('a', [(0, 0), (5, 50), (10, 100)]))
    (path,) = paths(svg)
    (x0, y0), (x1, y1), (x2, y2) = [
        tuple(map(float, pair.split())) for pair in re.split('[ML]', path.get('d'))[1:]
    ]
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert x0 < x2
    assert y0 > y2
    texts = [one.text for one in svg.iter(f'{SVG}text')]
    assert {'0', '10', '100', 'epoch'} <= set(texts)


def test_several_decades_get_a_logarithmic_axis():
    svg = draw(Line('a', [(1, 1e-3), (2, 1e-1), (3, 10)]))
    y = [float(one.split()[1]) for one in re.split('[ML]', paths(svg)[0].get('d'))[1:]]
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.2)


def test_values_that_are_not_finite_interrupt_a_line():
    svg = draw(Line('a', [(1, 1), (2, 2), (3, math.nan), (4, 4), (5, 5)]))
    assert paths(svg)[0].get('d').count('M') == 2
    assert line_chart([Line('a', [(1, math.nan)])], '', '') == ''


def test_long_lines_are_thinned_and_single_points_are_marked():
    assert paths(draw(Line('a', [(i, i) for i in range(5000)])))[0].get('d').count('L') < 200
    assert len(list(draw(Line('a', [(3, 3)])).iter(f'{SVG}circle'))) == 1
    assert len(list(draw(Line('a', [(3, 3), (4, 5)], 0, (4, 5))).iter(f'{SVG}circle'))) == 1


def test_names_are_escaped_and_styles_differ():
    lines = [Line(f'<b>{place}', [(0, 1), (1, 2)], place) for place in range(20)]
    svg = draw(*lines)
    assert len({one.get('style') for one in paths(svg)}) == 20
    assert [one.text for one in svg.iter(f'{SVG}title')][0] == '<b>0'


@pytest.mark.parametrize('value', [0.0, 5.0, -3.0, 1e9, 1e-9])
def test_constant_lines_have_an_axis(value):
    numbers = re.findall('nan|inf', str(line_chart([Line('a', [(0, value)])], 'x', 't')))
    assert numbers == []
