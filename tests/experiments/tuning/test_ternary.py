import mpltern
import numpy as np
import pandas as pd
import pytest

from mmkdml.experiments.tuning.ternary import draw_landscape


def table(rows, letters=('alpha', 'beta', 'gamma')):
    """Build a table from rows of (state, value, weights of student 1, weights of student 2)."""
    columns = [f'{letter}_{number}' for number in '12' for letter in letters]
    return pd.DataFrame(
        [
            dict(trial=index, state=state, value=value)
            | dict(zip(columns, (*one, *two), strict=True))
            for index, (state, value, one, two) in enumerate(rows)
        ]
    )


def positions(collection):
    return np.asarray(collection.get_offsets())


A, B, C = (0.2, 0.4, 0.4), (0.1, 0.6, 0.3), (0.6, 0.1, 0.3)


def test_three_weights_are_a_triangle_for_each_student():
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
    assert [text.get_text() for text in figure.texts] == ['student 1', 'student 2']
    assert bar.get_ylabel() == 'IoU (%) of the ensemble'
    labels = ('alpha (truth)', 'beta (teacher)', 'gamma (peer)')
    assert (one.get_tlabel(), one.get_llabel(), one.get_rlabel()) == labels

    points, crosses, star = one.collections
    # Sorted by weights: B, and the mean of A, (10 + 30) / 2.
    assert points.get_array().tolist() == [80, 20]
    for axes in (one, two):
        assert axes.collections[0].get_clim() == (10, 80)  # the same scale
    # In a triangle of height 1, alpha is the height above the base.
    expected = [[(gamma - beta) / 3**0.5, alpha] for alpha, beta, gamma in (B, A)]
    assert positions(points) == pytest.approx(np.array(expected))
    assert len(crosses.get_offsets()) == 1
    assert positions(star)[0] == pytest.approx(positions(points)[0])
    assert two.collections[0].get_array().tolist() == [10, 55]


def test_tied_students_have_one_panel():
    none = (float('nan'),) * 3  # of a trial that failed early
    trials = [('complete', 1.0, A, A), ('complete', 2.0, B, B), ('fail', None, none, none)]
    figure = draw_landscape(table(trials), 'IoU', 1)
    assert len(figure.axes) == 2  # with the color bar
    assert [text.get_text() for text in figure.texts] == ['both students']


def test_two_weights_are_a_line_for_each_student():
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
    assert one.get_xlabel() == 'alpha (truth);  gamma (peer) = 1 - alpha'
    assert one.get_ylabel() == 'Accuracy (%)'


def test_picture_is_saved(tmp_path):
    draw_landscape(table([('complete', 1.0, A, B)]), 'IoU', 0).savefig(tmp_path / 'one.png')
    assert (tmp_path / 'one.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    ('trials', 'message'),
    [
        (table([('fail', 1.0, A, A)]), r"got 3 weights and the states \['fail'\]"),
        (table([('complete', 1.0, (1,), (1,))], ('alpha',)), 'got 1 weights'),
    ],
)
def test_invalid_table_raises(trials, message):
    with pytest.raises(ValueError, match=message):
        draw_landscape(trials, 'IoU', 0)
