import pandas as pd
import pytest

from mmkdml.evaluation.reliability import draw_reliability


def table(*members):
    return pd.concat(
        pd.DataFrame(
            dict(
                region='all',
                member=member,
                low=[0, 0.5],
                high=[0.5, 1],
                count=[0, 4],
                confidence=[float('nan'), 0.9],
                accuracy=[float('nan'), 0.75],
            )
        )
        for member in members
    )


def test_bars_show_accuracy_and_gap(figure, tmp_path):
    bins = table('teacher', 'student_1', 'student_2', 'student_3', 'ensemble')
    before = bins.copy()
    draw_reliability(bins, tmp_path / 'a.svg')
    assert '<svg' in (tmp_path / 'a.svg').read_text()
    axes = figure[0].axes
    assert [one.get_title() for one in axes if one.get_title()] == list(bins['member'].unique())
    bars = [bar for bar in axes[0].patches if hasattr(bar, 'get_height')]
    assert [(bar.get_x(), bar.get_y(), bar.get_height()) for bar in bars] == [
        (0.5, 0, 0.75),
        (0.5, 0.75, pytest.approx(0.15)),
    ]
    pd.testing.assert_frame_equal(bins, before)


def test_empty_table_raises(tmp_path):
    with pytest.raises(ValueError, match='table: expected at least one row, got none'):
        draw_reliability(pd.DataFrame(), tmp_path / 'a.png')
