import itertools

import numpy as np
import pandas as pd
import pytest

from mmkdml.analysis.cka import COLUMNS
from mmkdml.analysis.cka_figure import draw_cka


def table(pair, rows, columns, start=0.0):
    cells = itertools.product(
        [f'backbone.layer{row}' for row in range(rows)],
        [f'decode_head.blocks.{column}' for column in range(columns)],
    )
    values = np.linspace(start, 1, rows * columns)
    return pd.DataFrame(
        [
            [pair[0], row, f'stage {row[-1]}', pair[1], column, f'decoder {column[-1]}', value, 9]
            for (row, column), value in zip(cells, values, strict=True)
        ],
        columns=COLUMNS,
    )


TEACHER, PEERS = ('teacher', 'student_1'), ('student_1', 'student_2')


def test_pairs_are_rows_and_runs_are_columns(figure, tmp_path):
    tables = {
        'KD+ML v3': pd.concat([table(TEACHER, 2, 3), table(PEERS, 3, 3)]),
        'ML v3': table(PEERS, 3, 3, start=0.5),
    }
    before = {run: one.copy() for run, one in tables.items()}
    paths = [tmp_path / 'a.png', tmp_path / 'a.svg']
    draw_cka(tables, paths)
    assert all(path.stat().st_size > 5000 for path in paths)
    first, second, third, bar = figure[0].axes
    assert [axes.get_title() for axes in (first, second, third)] == [
        'KD+ML v3',
        'KD+ML v3',
        'ML v3',
    ]
    # Mutual learning has no teacher.
    assert first.get_position().x0 == pytest.approx(second.get_position().x0)
    assert second.get_position().x1 < third.get_position().x0
    for axes in (first, second, third):
        assert axes.images[0].get_clim() == (0, 1)
    # The first layers are at the lower left.
    assert first.images[0].origin == 'lower'
    assert first.images[0].get_array().tolist() == [
        pytest.approx([0, 0.2, 0.4]),
        pytest.approx([0.6, 0.8, 1]),
    ]
    assert (first.get_ylabel(), first.get_xlabel()) == TEACHER
    assert [tick.get_text() for tick in first.get_yticklabels()] == ['stage 0', 'stage 1']
    assert [tick.get_text() for tick in first.get_xticklabels()] == [
        f'decoder {block}' for block in range(3)
    ]
    assert [text.get_text() for text in first.texts][:2] == ['0.00', '0.20']
    assert bar.get_ylabel() == 'CKA'
    for run, one in tables.items():
        pd.testing.assert_frame_equal(one, before[run])


def test_small_cells_have_no_numbers(figure, tmp_path):
    draw_cka({'run': table(TEACHER, 13, 1)}, [tmp_path / 'a.png'])
    axes = figure[0].axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        f'stage {str(layer)[-1]}' for layer in range(13)
    ]
    assert len(axes.texts) == 13
    draw_cka({'run': table(TEACHER, 13, 13)}, [tmp_path / 'b.png'], width=3.5)
    assert not figure[1].axes[0].texts
    assert figure[1].get_figwidth() == 3.5


def test_no_pairs_raise():
    with pytest.raises(ValueError, match='at least one pair of members, got none'):
        draw_cka({}, [])


def test_pairs_of_one_run_are_drawn_side_by_side(figure, tmp_path):
    draw_cka({'run': pd.concat([table(TEACHER, 2, 2), table(PEERS, 2, 2)])}, [tmp_path / 'a.png'])
    left, right, _ = (axes.get_position() for axes in figure[0].axes)
    assert figure[0].get_suptitle() == 'run'
    assert left.x1 < right.x0
    assert left.y0 == pytest.approx(right.y0)


def test_runs_without_common_pair_are_drawn_side_by_side(figure, tmp_path):
    tables = {'KD+ML v3': table(PEERS, 2, 2), 'KD': table(TEACHER, 2, 2)}
    draw_cka(tables, [tmp_path / 'a.png'])
    left, right, _ = figure[0].axes
    assert (left.get_title(), right.get_title()) == ('KD+ML\nv3', 'KD')  # wrapped
    assert left.get_position().y0 == pytest.approx(right.get_position().y0)
    many = {f'{index}': table((f'a{index}', 'b'), 2, 2) for index in range(5)}
    draw_cka(many, [tmp_path / 'a.png'])
    *maps, _ = figure[1].axes
    assert [axes.get_title() for axes in maps if axes.images] == list(many)
    assert maps[4].get_position().y1 < maps[0].get_position().y0


def test_cells_of_all_maps_have_one_size(figure, tmp_path):
    tables = {
        'a': pd.concat([table(TEACHER, 5, 3), table(PEERS, 2, 7)]),
        'a run with a long name that is wrapped': table(TEACHER, 4, 2),
    }
    draw_cka(tables, [tmp_path / 'a.png'])
    size = figure[0].get_size_inches()
    *maps, _ = figure[0].axes
    for axes in maps:
        rows, columns = axes.images[0].get_array().shape
        inches = axes.get_position().size * size
        assert inches == pytest.approx([0.3 * columns, 0.3 * rows])


def test_undefined_values_are_marked(figure, tmp_path):
    one = table(TEACHER, 2, 2)
    one.loc[0, 'cka'] = np.nan
    draw_cka({'run': one}, [tmp_path / 'a.png'])
    assert [text.get_text() for text in figure[0].axes[0].texts][0] == '–'
