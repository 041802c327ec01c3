import copy
from collections import Counter
from pathlib import Path

import mmcv
import numpy as np
import pytest
from matplotlib.figure import Figure

from mmkdml.analysis.case_figure import HEAT_COLORS, SheetCell, draw_cells, draw_runs


@pytest.fixture
def figures(monkeypatch):
    """Saved figures by file name."""
    saved = {}
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda self, path, **options: (
            saved.update({Path(path).stem: self}),
            save(self, path, **options),
        ),
    )
    return saved


def gray(size=(24, 24), value=90):
    return np.full((*size, 3), value, np.uint8)


def cells(*names, caption='', **changes):
    return {name: SheetCell(gray(), caption=caption or name, **changes) for name in names}


def tiles_of(figure):
    """Return the axes of the sheet without the color bar, from top to bottom and left to right."""
    return [axes for axes in figure.axes if axes.get_label() != '<colorbar>']


def texts_of(figure):
    return [text.get_text() for text in figure.texts]


def test_one_run_is_one_sheet(figures, tmp_path):
    rows = [cells('image', 'truth', 'teacher', 'difference') for _ in range(3)]
    paths = draw_runs({'my run': rows}, ['a', 'b', 'c'], tmp_path / 'new', 'heat')
    assert paths == [tmp_path / 'new' / 'panels.png']
    assert mmcv.imread(paths[0]).shape[0] > 300
    assert len(tiles_of(figures['panels'])) == 12
    assert Counter(texts_of(figures['panels'])) == Counter(
        ['my run', 'a', 'b', 'c', *list(rows[0]) * 4]  # titles, and captions of three rows
    )


def test_several_runs_are_drawn_side_by_side(figures, tmp_path):
    runs = {
        'KD+ML v3': [cells('image', 'truth', 'teacher', 'student_1', caption=c) for c in 'ab'],
        'ML/v1': [cells('image', 'truth', 'student_1', caption=c) for c in 'cd'],
        'KD': [cells('image', 'truth', 'teacher', 'student', caption=c) for c in 'ef'],
    }
    before = copy.deepcopy({run: [list(row) for row in rows] for run, rows in runs.items()})
    paths = draw_runs(runs, ['x', 'y'], tmp_path, 'heat', 'worst', 'the worst')
    # Only one run has `student`, so it is not compared.
    names = ['worst_teacher', 'worst_student_1']
    names += ['worst_run_1_KD+ML_v3', 'worst_run_2_ML_v1', 'worst_run_3_KD']
    assert paths == [tmp_path / f'{name}.png' for name in names]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert texts_of(figures['worst_teacher']) == [
        *('teacher: the worst', 'image', 'truth', 'KD+ML v3', 'KD'),
        *('a', 'a', 'a', 'e', 'x', 'b', 'b', 'b', 'f', 'y'),
    ]
    assert texts_of(figures['worst_student_1'])[:5] == [
        *('student_1: the worst', 'image', 'truth', 'KD+ML v3', 'ML/v1')
    ]
    assert texts_of(figures['worst_run_2_ML_v1'])[0] == 'ML/v1: the worst'
    assert {run: [list(row) for row in rows] for run, rows in runs.items()} == before


def test_heat_maps_share_a_scale_and_a_color_bar(figures, tmp_path):
    heat, outline = np.linspace(0, 0.4, 576).reshape(24, 24), np.zeros((24, 24), bool)
    outline[4:9, 6:10] = True
    legend = dict(one='#ff0000', two='#0000ff')
    colored = np.dstack([np.full((24, 24), value, np.uint8) for value in (200, 100, 0)])
    row = {
        'image': SheetCell(colored),
        'heat': SheetCell(colored, heat, outline=outline),
        'mask': SheetCell(colored, outline=outline & False, mask=outline, legend=legend),
    }
    draw_cells([row], ['a'], [tmp_path / 'a.png'], 'label')
    figure = figures['a']
    plain, warm, filled = tiles_of(figure)
    assert [len(axes.images) for axes in (plain, warm, filled)] == [1, 2, 2]
    assert warm.images[1].get_clim() == (0, 1)
    assert (warm.images[1].get_array() == heat).all()
    # Colors of the image would change those of the heat map.
    assert (np.asarray(warm.images[0].get_array()) == 100).all()
    assert (np.asarray(filled.images[0].get_array()) == colored).all()
    assert ((np.asarray(filled.images[1].get_array())[..., 3] > 0) == outline).all()
    assert [len(axes.collections) for axes in (warm, filled)] == [
        1,
        1,
    ]  # the empty one is not drawn
    (bar,) = (axes for axes in figure.axes if axes.get_label() == '<colorbar>')
    assert bar.get_ylabel() == 'label'
    assert bar.get_ylim() == (0, 1)
    (known,) = figure.legends
    names = [text.get_text() for text in known.texts]
    assert names == ['true outline', 'predicted outline', 'one', 'two']


def test_low_values_of_a_heat_map_show_the_image():
    opacity = HEAT_COLORS([0.0, 0.2, 0.5, 1.0])[:, 3]
    assert opacity[0] == 0
    assert 0 < opacity[1] < opacity[2] == opacity[3] < 0.8


def test_sheet_without_heat_has_no_color_bar_and_no_legend(figures, tmp_path):
    draw_cells([cells('image', 'truth')], ['a'], [tmp_path / 'a.png'])
    assert len(figures['a'].axes) == 2
    assert not figures['a'].legends


def test_formats_and_width_for_papers(figures, tmp_path):
    rows = [cells('image', 'truth')]
    formats = ('png', 'svg', 'pdf')
    paths = draw_runs({'a': rows}, ['x'], tmp_path, '', formats=formats, width=3.5)
    assert paths == [tmp_path / f'panels.{suffix}' for suffix in formats]
    assert figures['panels'].get_figwidth() == 3.5
    assert mmcv.imread(paths[0]).shape[1] == 3.5 * 300
    assert '>truth</text>' in paths[1].read_text()  # text that can be edited
    assert paths[2].read_bytes().startswith(b'%PDF')


@pytest.mark.parametrize(
    ('rows', 'titles'),
    [([], []), ([cells('image')], ['a', 'b']), ([cells('image'), cells('truth')], ['a', 'b'])],
)
def test_inconsistent_rows_raise(rows, titles, tmp_path):
    with pytest.raises(ValueError, match=f'at least one case, .* got {len(titles)} titles'):
        draw_cells(rows, titles, [tmp_path / 'a.png'])
    assert not list(tmp_path.iterdir())
