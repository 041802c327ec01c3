import math

import pytest

from mmkdml.apis.summary.curves import Balance, loss_balance, loss_charts, validation_charts
from mmkdml.apis.summary.history import read_history
from mmkdml.figures import PALETTE, member_color


def test_each_member_has_a_chart_with_a_line_per_transfer(write_run):
    charts = loss_charts(read_history(write_run()))
    assert [one.caption.split()[2] for one in charts] == ['teacher', 'student_1', 'student_2']
    supervised, teacher, peer = charts[1].lines
    assert [one.name for one in (teacher, peer)] == [
        'from teacher, features',
        'from student_2, predictions',
    ]
    colors = [PALETTE[line.style] for line in (supervised, teacher, peer)]
    assert colors == [member_color(name) for name in ('student_1', 'teacher', 'student_2')]


def test_single_network_has_its_losses(write_run):
    history = read_history(write_run(losses={'decode.loss_ce': 1.0, 'aux.loss_ce': 2.0}))
    (chart,) = loss_charts(history)
    assert len({one.css for one in chart.lines}) == 2


def test_validations_mark_the_best_value(write_run):
    (chart,), more = validation_charts(read_history(write_run()))
    assert {line.name: line.marked for line in chart.lines} == {
        'teacher': (3, 12),
        'student_1': (3, 22),
        'student_2': (3, 32),
        'ensemble': (3, 42),
    }
    assert not more
    assert all(PALETTE[line.style] == member_color(line.name) for line in chart.lines)


@pytest.mark.parametrize(
    ('last', 'kind'), [(0.5, 'good'), (50, 'bad'), (1e-5, 'bad'), (math.nan, 'bad')]
)
def test_balance_has_a_verdict(last, kind):
    assert Balance('a', last, 0, 1).verdict[1] == kind


def test_balance_of_logged_ratios(write_run):
    key = 'gradient_ratio/student_1.from_teacher.features'
    losses = {key: 12.0, key.replace('_ratio', ''): 3.0, 'gradient/student_1.supervised': 6.0}
    charts, rows = loss_balance(read_history(write_run(losses=losses)))
    assert (rows[0].name, rows[0].last, rows[0].high) == (
        'teacher → student_1, features',
        pytest.approx(0.5),
        12,
    )
    assert len(charts) == 1
