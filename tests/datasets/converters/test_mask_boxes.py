import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from mmkdml.datasets.coco_json import read_coco
from mmkdml.datasets.converters import component_boxes, convert_lgg, convert_mask_boxes
from mmkdml.datasets.converters.ham10000 import DIAGNOSES
from mmkdml.datasets.splits import read_split

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 1)), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_components_equal_those_of_scipy(mask, min_area):
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    expected = [
        (x.start, y.start, x.stop, y.stop)
        for number, (y, x) in enumerate(ndimage.find_objects(labels), 1)
        if (labels == number).sum() >= min_area
    ]
    boxes, small = component_boxes(mask, min_area)
    assert sorted(boxes) == sorted(expected)
    assert small == count - len(expected)


@pytest.fixture
def lgg(tmp_path, save):
    """Four patients with an empty slice, two components, and one with a speck."""
    root = tmp_path / 'kaggle_3m'
    for number in range(4):
        for index in range(3):
            mask = np.zeros((32, 32))
            if index:
                mask[2:8, 3:9] = 255
            if index == 1:
                mask[20:30, 10:15] = 255
            if index == 2:
                mask[31, 31] = 255
            save(root / f'P{number}' / f'P{number}_{index}.tif', np.zeros((32, 32, 3)))
            save(root / f'P{number}' / f'P{number}_{index}_mask.tif', mask)
    return root


def test_lgg(lgg, tmp_path):
    with pytest.warns(UserWarning, match='4 of 16 components have less than 16 pixels'):
        convert_mask_boxes(lgg, tmp_path / 'out', 'lgg', ratios=(2, 1, 1), seed=1)
    convert_lgg(lgg, tmp_path / 'seg', ratios=(2, 1, 1), seed=1)
    for name in ('train', 'val', 'test'):
        boxes, masks = (read_split(tmp_path / out / f'{name}.csv') for out in ('out', 'seg'))
        assert [(row.id, row.mask) for row in boxes] == [(row.id, row.mask) for row in masks]
        assert [row.label for row in boxes] == [row.label for row in masks]
        assert {row.labels for row in boxes} == {(), ('tumour',)}
    classes, images = read_coco(tmp_path / 'out' / 'annotations.json')
    assert classes == ('tumour',)
    found = {image.path: [box.corners for box in image.boxes] for image in images}
    assert found['P0/P0_0.tif'] == []
    assert found['P0/P0_1.tif'] == [(3, 2, 9, 8), (10, 20, 15, 30)]
    assert found['P0/P0_2.tif'] == [(3, 2, 9, 8)]


def test_tool_on_folders(tmp_path, save, run_tool, capsys):
    for number in range(4):
        mask = np.zeros((20, 30))
        mask[3:9, 2:12] = 255 * (number > 0)
        save(tmp_path / 'data' / 'images' / f'p{number}_x.png', np.zeros((20, 30, 3)))
        save(tmp_path / 'data' / 'masks' / f'p{number}_x_mask.png', mask)
    run_tool(
        *('mask_boxes.py', tmp_path / 'data', '--out', tmp_path / 'out', '--images', 'images'),
        *('--masks', 'masks', '--mask-suffix', '_mask', '--group-regex', r'(p\d)_'),
        *('--name', 'polyp', '--ratios', 1, 1, 2),
    )
    table = [line.split() for line in capsys.readouterr().out.splitlines()[:4]]
    assert table[0] == ['split', 'images', 'groups', 'boxes', 'polyp']
    assert sum(int(row[3]) for row in table[1:]) == 3
    info = json.loads((tmp_path / 'out' / 'splits.json').read_text())
    assert (info['min_area'], info['mask_suffix']) == (16, '_mask')


def test_ham10000(tmp_path, save, run_tool, capsys):
    root = tmp_path / 'ham'
    lines = ['lesion_id,image_id,dx']
    for number, dx in enumerate(sorted(DIAGNOSES * 3)):
        mask = np.zeros((20, 30))
        mask[3:9, 2:12] = 255
        lines.append(f'L{number},I{number},{dx}')
        save(root / 'HAM10000_images_part_1' / f'I{number}.jpg', np.zeros((20, 30, 3)))
        save(root / 'masks' / f'I{number}_segmentation.png', mask)
    (root / 'HAM10000_metadata.csv').write_text('\n'.join(lines))
    options = ['--out', tmp_path / 'out', '--task', 'det', '--ratios', 1, 1, 1]
    run_tool('ham10000.py', root, *options)
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()[:4]] == [
        ['split', 'images', 'groups', 'boxes', 'lesion'],
        *([split, '7', '7', '7', '7'] for split in ('train', 'val', 'test')),
    ]
    assert 'ham10000_det.py' in printed
    with pytest.raises(SystemExit, match='--balance need --task cls or seg'):
        run_tool('ham10000.py', root, *options, '--balance', 'mean')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(layout='coco'), 'layout'),
        (dict(layout='lgg', min_area=0), 'min_area: expected at least 1 pixel, got 0'),
        (dict(layout='lgg', images='images'), 'only for the layout folders'),
        (dict(images='images'), "expected images and masks, got 'images' and None"),
        (dict(layout='lgg', min_area=61), 'components of 61 pixels, got none in masks'),
        (dict(layout='lgg', masks_drawn_on='x'), 'masks_drawn_on'),
    ],
)
def test_invalid_arguments_raise(lgg, tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        convert_mask_boxes(lgg, tmp_path / 'out', **options)
