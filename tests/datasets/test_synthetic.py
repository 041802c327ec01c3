import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmkdml.datasets import lgg_rows, make_demo_data
from mmkdml.datasets.splits.splitting import split_rows

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'make_demo_data.py'


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    return make_demo_data(tmp_path_factory.mktemp('demo') / 'kaggle_3m')


def files_in(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.tif')}


def test_converter_accepts_demo_data(demo):
    rows = lgg_rows(demo)
    assert len(rows) == 240
    assert len({row.group for row in rows}) == 24
    assert all(row.group.startswith('TCGA_XX_') for row in rows)
    assert all(any(row.label for row in part) for part in split_rows(rows).values())


def test_half_of_the_slices_have_a_lesion(demo):
    masks = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in demo.rglob('*_mask.tif')]
    areas = np.array([(mask > 0).mean() for mask in masks])
    assert 0.4 < (areas > 0).mean() < 0.6
    assert areas[areas > 0].min() < 0.01
    assert areas.max() > 0.05


def test_lesion_is_bright_in_flair_but_not_separable(demo):
    images, masks = [], []
    for row in lgg_rows(demo):
        images.append(cv2.imread(str(demo / row.path))[..., ::-1])
        masks.append(cv2.imread(str(demo / row.mask), cv2.IMREAD_UNCHANGED) > 0)
    images, masks = np.stack(images), np.stack(masks)
    assert images.shape == (240, 64, 64, 3)
    head = images.mean(axis=-1) > 40
    contrast = images[masks].mean(axis=0) - images[head & ~masks].mean(axis=0)
    assert contrast[1] > 30
    assert contrast[1] > 3 * max(contrast[0], contrast[2])
    found = [images[..., 1] > level for level in range(50, 250, 10)]
    iou = [(f & masks).sum() / (f | masks).sum() for f in found]
    assert 0.2 < max(iou) < 0.6


def test_equal_seeds_give_equal_files(tmp_path):
    args = dict(patients=2, slices=3, size=32)
    one = files_in(make_demo_data(tmp_path / 'one', **args))
    assert len(one) == 12
    assert one == files_in(make_demo_data(tmp_path / 'one', **args))  # written again
    assert one == files_in(make_demo_data(tmp_path / 'two', **args, seed=0))
    assert one != files_in(make_demo_data(tmp_path / 'three', **args, seed=1))


def test_a_patient_does_not_depend_on_the_others(tmp_path):
    few = files_in(make_demo_data(tmp_path / 'few', patients=1, slices=3, size=32))
    more = files_in(make_demo_data(tmp_path / 'more', patients=3, slices=3, size=32))
    assert few.items() < more.items()
    assert len({more[path] for path in more if '_mask' not in path.name}) == 9


@pytest.mark.parametrize(
    ('argument', 'value', 'least'),
    [('patients', 0, 1), ('slices', 0, 1), ('size', 16, 32), ('seed', -1, 0)],
)
def test_too_small_numbers_raise(tmp_path, argument, value, least):
    with pytest.raises(ValueError, match=f'expected {argument} of at least {least}, got {value}'):
        make_demo_data(tmp_path / 'demo', **{argument: value})
    assert not (tmp_path / 'demo').exists()


def test_folder_with_other_files_raises(tmp_path):
    make_demo_data(tmp_path, patients=2, slices=1, size=32)
    with pytest.raises(
        FileExistsError, match='contains other files, such as .*_0002_20000101_1.tif'
    ):
        make_demo_data(tmp_path, patients=1, slices=1, size=32)


def test_tool_writes_demo_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys,
        'argv',
        ['make_demo_data.py', str(tmp_path), '--patients', '2', '--slices', '3', '--size', '32'],
    )
    runpy.run_path(str(TOOL), run_name='__main__')
    assert '6 slices of 2 patients' in capsys.readouterr().out
    assert len(lgg_rows(tmp_path)) == 6
    sys.argv[-1] = '8'
    with pytest.raises(SystemExit, match='make_demo_data.py: error: expected size of at least 32'):
        runpy.run_path(str(TOOL), run_name='__main__')
