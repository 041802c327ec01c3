import mpltern
import numpy as np
import pandas as pd
import pytest

from mmkdml.experiments.tuning.ternary import draw_landscape


def table(rows, letters=('alpha', 'beta', 'gamma')):
    """Rows of (state, value, weights of student 1, weights of student 2)."""
    columns = [f'{letter}_{number}' for number in '12' for letter in letters]
    return pd.DataFrame(
        [
            dict(trial=index, state=state, value=value)
            | dict(zip(columns, (*one, *two), strict=True))
            for index, (state, value, one, two) in enumerate(rows)
        ]
    )


def places(collection):
    return np.asarray(collection.get_offsets())


A, B, C = (0.2, 0.4, 0.4), (0.1, 0.6, 0.3), (0.6, 0.1, 0.3)


def test_a_triangle_for_each_student():
    trials = table(
        [
            ('complete', 10.0, A, B),
            ('complete', 30.0, A, C),
            ('complete', 80.0, B, C),
            ('pruned', 5.0, C, C),
            ('fail', float('nan'), C, A),
        ]
    )
    before = trials.copy()
    figure = draw_landscape(trials, 'ensemble/IoU', best=2)
    pd.testing.assert_frame_equal(trials, before)

    one, two, bar = figure.axes
    assert isinstance(one, mpltern.TernaryAxes)
    assert (one.get_title(), two.get_title()) == ('student 1', 'student 2')
    assert bar.get_ylabel() == 'ensemble/IoU'
    assert (one.get_tlabel(), one.get_llabel(), one.get_rlabel()) == ('alpha', 'beta', 'gamma')

    points, crosses, star = one.collections
    # In order of the weights: B, then A twice, (10 + 30) / 2.
    assert points.get_array().tolist() == [80, 20]
    for axes in (one, two):
        assert axes.collections[0].get_clim() == (10, 80)  # one scale for both
    # In a triangle of height 1 alpha is the height over the base.
    expected = [[(gamma - beta) / 3**0.5, alpha] for alpha, beta, gamma in (B, A)]
    assert places(points) == pytest.approx(np.array(expected))
    assert len(crosses.get_offsets()) == 1
    assert places(star)[0] == pytest.approx(places(points)[0])
    assert two.collections[0].get_array().tolist() == [10, 55]


def test_one_panel_if_the_students_are_tied():
    nothing = (float('nan'),) * 3  # of a trial that failed before it knew what to try
    trials = [('complete', 1.0, A, A), ('complete', 2.0, B, B), ('fail', None, nothing, nothing)]
    figure = draw_landscape(table(trials), 'IoU', 1)
    axes, _ = figure.axes
    assert axes.get_title() == 'both students'


def test_two_weights_are_a_line():
    rows = [
        ('complete', 50.0, (0.8, 0.2), (0.1, 0.9)),
        ('complete', 70.0, (0.2, 0.8), (0.1, 0.9)),
        ('complete', 60.0, (0.2, 0.8), (0.3, 0.7)),
        ('pruned', 1.0, (0.5, 0.5), (0.5, 0.5)),
    ]
    figure = draw_landscape(table(rows, ('alpha', 'gamma')), 'accuracy', 1)
    one, two = figure.axes
    line, crosses = one.lines
    assert line.get_xydata().tolist() == [[0.2, 65], [0.8, 50]]
    assert crosses.get_xdata().tolist() == [0.5]
    assert one.collections[0].get_offsets().tolist() == [[0.2, 70]]
    assert two.lines[0].get_xydata().tolist() == [[0.1, 60], [0.3, 60]]
    assert one.get_xlabel() == 'alpha; gamma = 1 - alpha'
    assert one.get_ylabel() == 'accuracy'


def test_it_can_be_drawn(tmp_path):
    draw_landscape(table([('complete', 1.0, A, B)]), 'IoU', 0).savefig(tmp_path / 'one.png')
    assert (tmp_path / 'one.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    ('trials', 'message'),
    [
        (table([('fail', 1.0, A, A)]), r"got 3 weights and the states \['fail'\]"),
        (table([('complete', 1.0, (1,), (1,))], ('alpha',)), 'got 1 weights'),
    ],
)
def test_nothing_to_draw(trials, message):
    with pytest.raises(ValueError, match=message):
        draw_landscape(trials, 'IoU', 0)
