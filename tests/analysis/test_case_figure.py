import copy
from pathlib import Path

import matplotlib as mpl
import mmcv
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from mmkdml.analysis.case_figure import (
    DIFFERENCE_COLORS,
    TRUTH_COLOR,
    SheetCell,
    draw_cells,
    draw_runs,
    mask_rows,
)
from mmkdml.analysis.hard_cases import measure_cases

COLUMNS = ['image', 'truth', 'teacher', 'student_1', 'student_2', 'ensemble', 'difference']


@pytest.fixture
def figures(monkeypatch):
    """Saved figures by file name."""
    saved = {}
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda self, path: (saved.update({Path(path).stem: self}), save(self, path)),
    )
    return saved


def gray(size=(24, 24), value=90):
    return np.full((*size, 3), value, np.uint8)


def cells(*names, caption='', **changes):
    return {name: SheetCell(gray(), caption=caption or name, **changes) for name in names}


def axes_of(figure, columns):
    """Return the axes of the sheet by row, without the color bar."""
    pictures = [axes for axes in figure.axes if axes.get_label() != '<colorbar>']
    return [pictures[start : start + columns] for start in range(0, len(pictures), columns)]


def test_mask_rows(masks):
    model, loader = masks
    rows = mask_rows(model, loader)
    table = measure_cases(model, loader)
    with torch.no_grad():
        samples = [one for data in loader for one in model.test_step(data)]
    for row, sample, (_, numbers) in zip(rows, samples, table.iterrows(), strict=True):
        assert list(row) == COLUMNS
        truth = sample.gt_sem_seg.data[0].numpy() == 1
        assert row['image'].caption == f'region: {truth.sum():,} pixels'
        picture = mmcv.imread(sample.img_path, channel_order='rgb')
        assert (row['image'].image == picture).all()
        assert (row['truth'].image == 255 * truth[..., None]).all()
        for name in COLUMNS[2:5]:
            heat = sample.members.get(name).seg_logits.data[0].numpy()
            assert row[name].heat == pytest.approx(heat, abs=1e-6)
            assert (row[name].outline == truth).all()
            assert row[name].legend == {'true outline': TRUTH_COLOR}
        mask = sample.pred_sem_seg.data[0].numpy() == 1
        assert row['ensemble'].heat is None
        assert (row['ensemble'].image == 255 * mask[..., None]).all()
        for name in COLUMNS[2:6]:
            assert row[name].caption == caption_of(numbers[f'{name}_IoU'])
        difference = row['difference']
        assert difference.caption == row['ensemble'].caption
        assert difference.legend == DIFFERENCE_COLORS
        for color, part in zip(
            DIFFERENCE_COLORS.values(), (mask & truth, mask & ~truth, ~mask & truth), strict=True
        ):
            painted = (difference.image == (255 * np.array(to_rgb(color))).astype(int)).all(-1)
            assert (painted == part).all()
        rest = difference.image[~mask & ~truth].astype(int)
        assert (rest == rest[:, :1]).all()  # gray
        assert rest.max() <= 0.45 * 255


def caption_of(iou):
    if np.isnan(iou):
        return 'both empty'
    return f'IoU {iou:.1f}   Dice {200 * iou / (100 + iou):.1f}'


def test_ignored_pixels_are_excluded_from_the_difference(masks):
    model, loader = masks
    dataset = copy.deepcopy(loader.dataset)

    def ignoring(packed):
        packed['data_samples'].gt_sem_seg.data[:] = 255
        return packed

    dataset.pipeline.transforms.append(ignoring)
    for row in mask_rows(model, DataLoader(dataset, 8, collate_fn=loader.collate_fn)):
        assert row['image'].caption == 'region: 0 pixels'
        assert row['ensemble'].image.any()
        assert row['ensemble'].caption == 'both empty'
        assert row['difference'].image.max() <= 0.45 * 255


def test_mask_rows_of_a_single_network(masks):
    model, loader = masks
    network = copy.deepcopy(model.members['student_1'])
    network.data_preprocessor = model.data_preprocessor
    rows, expected = mask_rows(network, loader), mask_rows(model, loader)
    assert list(rows[0]) == ['image', 'truth', 'model', 'difference']
    for row, both in zip(rows, expected, strict=True):
        assert (row['model'].heat == both['student_1'].heat).all()
        assert row['difference'].caption == row['model'].caption == both['student_1'].caption


def test_sample_without_img_path_raises(masks):
    model, loader = masks
    dataset = copy.deepcopy(loader.dataset)
    dataset.pipeline.transforms[-1].meta_keys = ('id', 'ori_shape', 'img_shape', 'pad_shape')
    with pytest.raises(ValueError, match='expected img_path in its metainfo'):
        mask_rows(model, DataLoader(dataset, 8, collate_fn=loader.collate_fn))


def test_one_run_is_one_sheet(figures, tmp_path):
    rows = [cells('image', 'truth', 'teacher', 'difference') for _ in range(3)]
    paths = draw_runs({'my run': rows}, ['a', 'b', 'c'], tmp_path / 'new', 'heat')
    assert paths == [tmp_path / 'new' / 'panels.png']
    assert mmcv.imread(paths[0]).shape[0] > 300
    grid = axes_of(figures['panels'], 4)
    assert figures['panels'].get_suptitle() == 'my run'
    assert [axes.get_title() for axes in grid[0]] == list(rows[0])
    assert [line[0].get_ylabel() for line in grid] == ['a', 'b', 'c']
    assert all(axes.get_title() == '' for axes in grid[1])
    assert [axes.get_xlabel() for axes in grid[2]] == list(rows[0])


def test_several_runs_are_drawn_side_by_side(figures, tmp_path):
    runs = {
        'KD+ML v3': [cells('image', 'truth', 'teacher', 'student_1', caption=c) for c in 'ab'],
        'ML/v1': [cells('image', 'truth', 'student_1', caption=c) for c in 'cd'],
        'KD': [cells('image', 'truth', 'teacher', 'student', caption=c) for c in 'ef'],
    }
    before = copy.deepcopy({run: [list(row) for row in rows] for run, rows in runs.items()})
    paths = draw_runs(runs, ['x', 'y'], tmp_path, 'heat')
    # Only one run has `student`, so it is not compared.
    names = ['teacher', 'student_1', 'run_1_KD+ML_v3', 'run_2_ML_v1', 'run_3_KD']
    assert paths == [tmp_path / f'{name}.png' for name in names]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    grid = axes_of(figures['teacher'], 4)
    assert figures['teacher'].get_suptitle() == 'teacher'
    assert [axes.get_title() for axes in grid[0]] == ['image', 'truth', 'KD+ML v3', 'KD']
    assert [[axes.get_xlabel() for axes in line] for line in grid] == [
        ['a', 'a', 'a', 'e'],
        ['b', 'b', 'b', 'f'],
    ]
    titles = [axes.get_title() for axes in axes_of(figures['student_1'], 4)[0]]
    assert titles == ['image', 'truth', 'KD+ML v3', 'ML/v1']
    assert figures['run_2_ML_v1'].get_suptitle() == 'ML/v1'
    assert {run: [list(row) for row in rows] for run, rows in runs.items()} == before


def test_heat_maps_share_a_scale_and_a_color_bar(figures, tmp_path):
    heat, outline = np.linspace(0, 0.4, 576).reshape(24, 24), np.zeros((24, 24), bool)
    outline[4:9, 6:10] = True
    legend = dict(one='#ff0000', two='#0000ff')
    row = {
        'image': SheetCell(gray()),
        'heat': SheetCell(gray(), heat, outline=outline),
        'over': SheetCell(gray(), heat, opacity=0.6, outline=outline & False, legend=legend),
    }
    draw_cells([row], ['a'], tmp_path / 'a.png', 'label')
    figure = figures['a']
    ((plain, opaque, over),) = axes_of(figure, 3)
    assert [len(axes.images) for axes in (plain, opaque, over)] == [1, 2, 2]
    for axes, alpha in ((opaque, 1), (over, 0.6)):
        assert axes.images[1].get_clim() == (0, 1)
        assert axes.images[1].get_alpha() == alpha
        assert (axes.images[1].get_array() == heat).all()
    assert len(opaque.collections) == 1
    assert not over.collections  # nothing to outline
    (bar,) = (axes for axes in figure.axes if axes.get_label() == '<colorbar>')
    assert bar.get_ylabel() == 'label'
    assert bar.get_ylim() == (0, 1)
    (known,) = figure.legends
    assert [text.get_text() for text in known.texts] == ['one', 'two']
    # The file contains the color of the highest value.
    pixels = mmcv.imread(tmp_path / 'a.png', channel_order='rgb').reshape(-1, 3)
    top = 255 * np.array(mpl.colormaps['magma'](0.4)[:3])
    assert (np.abs(pixels - top).max(axis=1) < 4).any()


def test_sheet_without_heat_has_no_color_bar_and_no_legend(figures, tmp_path):
    draw_cells([cells('image', 'truth')], ['a'], tmp_path / 'a.png')
    assert len(figures['a'].axes) == 2
    assert not figures['a'].legends


@pytest.mark.parametrize(
    ('rows', 'titles'),
    [([], []), ([cells('image')], ['a', 'b']), ([cells('image'), cells('truth')], ['a', 'b'])],
)
def test_inconsistent_rows_raise(rows, titles, tmp_path):
    with pytest.raises(ValueError, match=f'at least one case, .* got {len(titles)} titles'):
        draw_cells(rows, titles, tmp_path / 'a.png')
    assert not list(tmp_path.iterdir())
