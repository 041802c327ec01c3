"""Data sets with boxes: samples, order of classes, negatives, EXIF, image cache."""

import json
import re
import warnings

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmdet')

from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs

from mmkdml.datasets import LoadCheckedImage, SplitBoxDataset, boxes
from mmkdml.datasets.coco_json import Box, BoxImage, coco_json
from mmkdml.datasets.splits import SplitRow, accept_splits, write_folds, write_splits
from mmkdml.registry import DATASETS

CLASSES = ('red', 'white')
LOAD = [
    dict(type=LoadCheckedImage),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=PackDetInputs, meta_keys=('img_id', 'img_path', 'ori_shape', 'id', 'group')),
]
BOXES = [
    (Box(1, (2, 3, 12, 9)), Box(0, (0, 0, 5.5, 20)), Box(0, (1, 1, 4, 4), ignored=True)),
    (),
    (Box(0, (20, 10, 30, 20)),),
]


def write(root, boxes=BOXES, size=(30, 20), repeats=1, **save):
    """Write images of random pixels with split files for all of them."""
    (root / 'images').mkdir(parents=True)
    images, rows = [], []
    for number, own in enumerate(boxes):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
        path = f'images/{number}.png'
        Image.fromarray(pixels).save(root / path, **save)
        images.append(BoxImage(10 + number, path, size, tuple(own)))
        rows.append(SplitRow(str(number), path, f'patient {number}', 0, repeats=repeats))
    files = {'annotations.json': coco_json(CLASSES, images)}
    write_splits(root / 'splits', dict(train=rows), {}, files=files)
    return root


def dataset(root, pipeline=LOAD, kind=SplitBoxDataset, **options):
    return kind(
        ann_file=str(root / 'splits' / 'train.csv'),
        data_root=str(root),
        pipeline=pipeline,
        **options,
    )


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / 'data')


def test_samples_equal_those_of_mmdet(root):
    ours = dataset(root)
    theirs = CocoDataset(
        ann_file=str(root / 'splits' / 'annotations.json'),
        data_prefix=dict(img=str(root)),
        metainfo=dict(classes=CLASSES),
        pipeline=LOAD,
    )
    assert ours.metainfo['classes'] == CLASSES
    assert len(ours) == len(theirs) == 3
    for index in range(3):
        one, other = ours[index], theirs[index]
        assert np.array_equal(one['inputs'], other['inputs'])
        for key in ('gt_instances', 'ignored_instances'):
            found, expected = (getattr(each['data_samples'], key) for each in (one, other))
            assert found.bboxes.tensor.tolist() == expected.bboxes.tensor.tolist()
            assert found.labels.tolist() == expected.labels.tolist()
        assert one['data_samples'].img_id == other['data_samples'].img_id == 10 + index
        assert one['data_samples'].group == f'patient {index}'
        assert ours.get_cat_ids(index) == theirs.get_cat_ids(index)


def test_metainfo_sets_the_order_of_the_classes(root):
    plain, turned = dataset(root), dataset(root, metainfo=dict(classes=CLASSES[::-1]))
    for index in range(3):
        labels = plain.get_cat_ids(index)
        assert turned.get_cat_ids(index) == [1 - label for label in labels]


@pytest.mark.parametrize('classes', [('red',), ('red', 'white', 'blue'), ('red', 'red')])
def test_other_classes_raise(root, classes):
    with pytest.raises(ValueError, match=re.escape(f'{CLASSES}, got {classes}')):
        dataset(root, metainfo=dict(classes=classes))


def test_negatives_are_kept_unless_filtered(root):
    assert [len(dataset(root).get_cat_ids(index)) for index in range(3)] == [3, 0, 1]
    filtered = dataset(root, filter_cfg=dict(filter_empty_gt=True))
    assert [filtered.get_data_info(index)['id'] for index in range(2)] == ['0', '2']
    assert len(dataset(root, filter_cfg=dict(filter_empty_gt=True), test_mode=True)) == 3
    assert len(dataset(root, filter_cfg=dict(min_size=20))) == 3
    with pytest.raises(ValueError, match='expected filter_empty_gt and min_size'):
        dataset(root, filter_cfg=dict(min_sise=20))


def test_small_images_are_filtered(root):
    with pytest.raises(ValueError, match=r"train.csv, got none of 3 with {'min_size': 21}"):
        dataset(root, filter_cfg=dict(min_size=21))
    content = json.loads((root / 'splits' / 'annotations.json').read_text())
    content['images'][1].update(height=21)
    other = root / 'other.json'
    other.write_text(json.dumps(content))
    data = dataset(root, filter_cfg=dict(min_size=21), boxes_file=str(other))
    assert [data.get_data_info(index)['id'] for index in range(len(data))] == ['1']


def test_a_set_of_negatives(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(boxes, 'print_log', lambda text, *_: logged.append(text))
    data = dataset(write(tmp_path / 'data', [(), ()]))
    (warning,) = logged
    assert all(f'{name}' in warning for name in data.metainfo['classes'])
    dataset(write(tmp_path / 'more', [(), ()]), test_mode=True)
    assert len(logged) == 1
    sample = data[1]['data_samples']
    assert sample.gt_instances.bboxes.tensor.shape == (0, 4)
    assert sample.gt_instances.labels.shape == (0,)


def test_repeats(tmp_path):
    data = dataset(write(tmp_path / 'data', repeats=3))
    assert [data.get_data_info(index)['img_id'] for index in range(9)] == sorted([10, 11, 12] * 3)


def test_image_cache_keeps_samples(root, tmp_path):
    plain, cached = dataset(root), dataset(root, image_cache=dict(dir=str(tmp_path / 'cache')))
    for index in range(3):
        one, other = plain[index], cached[index]
        assert np.array_equal(one['inputs'], other['inputs'])
        assert one['data_samples'].ori_shape == other['data_samples'].ori_shape
    assert any((tmp_path / 'cache').iterdir())


def save_turned(root, orientation):
    """Replace the images by photos with a bright box and an EXIF orientation."""
    for number in range(3):
        shown = np.zeros((20, 30, 3), np.uint8)
        shown[3:9, 2:12] = 250
        # Turning by these orientations, applied by Pillow: 6 is a quarter clockwise.
        stored = {3: shown[::-1, ::-1], 6: np.rot90(shown), 8: np.rot90(shown, -1)}[orientation]
        exif = Image.Exif()
        exif[0x112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(root / f'images/{number}.png', exif=exif)


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_boxes_refer_to_the_displayed_image(tmp_path, orientation):
    root = write(tmp_path / 'data', [(Box(0, (2, 3, 12, 9)),)] * 3)
    save_turned(root, orientation)
    sample = dataset(root)[0]
    bright = sample['inputs'][0].numpy() > 128
    rows, columns = np.nonzero(bright)
    (found,) = sample['data_samples'].gt_instances.bboxes.tensor.tolist()
    assert found == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_boxes_of_the_stored_pixels_raise(tmp_path):
    root = write(tmp_path / 'data', [(Box(0, (2, 3, 12, 9)),)] * 3, size=(20, 30))
    save_turned(root, 6)
    message = 'expected 20x30 pixels after EXIF rotation, the size in .*, got 30x20'
    with pytest.raises(RuntimeError, match=message):
        dataset(root)[0]


def test_unsupported_images_raise(root):
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(root / 'images' / '1.png')
    with pytest.raises(RuntimeError, match=r'images/1.png.*16 bits'):
        dataset(root)[1]


@pytest.mark.parametrize(
    ('corners', 'fits'),
    [
        ((0, 0, 30, 20), True),
        ((0, 0, 30.01, 20), True),  # rounding
        ((0, 0, 31, 20), False),
        ((-1, 0, 30, 20), False),
        ((3, 0, 3, 20), False),
        ((9, 0, 3, 20), False),
    ],
)
def test_boxes_must_be_inside(tmp_path, corners, fits):
    root = write(tmp_path / 'data', [(Box(0, corners),)])
    if fits:
        (box,) = dataset(root).get_data_info(0)['instances']
        assert box['bbox'] == [0, 0, 30, 20]  # BoxAP requires boxes inside of the image
    else:
        with pytest.raises(ValueError, match=r'annotation 1 of images/0.png.*in 30x20 pixels'):
            dataset(root)


def test_changed_or_missing_boxes_raise(root):
    path = root / 'splits' / 'annotations.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'annotations.json does not belong to the other'):
        dataset(root)
    accept_splits(root / 'splits')
    assert dataset(root).get_data_info(0)['instances'][0]['bbox'] == [3, 3, 13, 9]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r'No COCO JSON file .* of .*train.csv. Write it'):
        dataset(root)


def test_boxes_of_another_file(root, tmp_path):
    other = tmp_path / 'other.json'
    with pytest.raises(FileNotFoundError, match=r'other.json with the boxes of'):
        dataset(root, boxes_file=str(other))
    content = json.loads((root / 'splits' / 'annotations.json').read_text())
    other.write_text(json.dumps(content | dict(annotations=[])))
    assert dataset(root, boxes_file=str(other)).get_cat_ids(0) == []
    content['images'].pop()
    content['annotations'].pop()
    other.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no image 'images/2.png', which .*train.csv has"):
        dataset(root, boxes_file=str(other))


def test_text_configs_find_the_class(root):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        built = DATASETS.build(
            dict(
                type='mmkdml.SplitBoxDataset',
                ann_file=str(root / 'splits' / 'train.csv'),
                data_root=str(root),
                pipeline=[],
            )
        )
    assert type(built) is SplitBoxDataset


def test_folds_share_the_file_of_boxes(tmp_path):
    root = write(tmp_path)
    rows = [SplitRow(str(n), f'images/{n}.png', f'patient {n}', 0) for n in range(3)]
    folds = [dict(train=rows[:n] + rows[n + 1 :], test=[rows[n]]) for n in range(3)]
    files = {'annotations.json': (root / 'splits' / 'annotations.json').read_bytes()}
    write_folds(root / 'splits', folds, {}, force=True, files=files)
    for number, own in enumerate(BOXES):
        path = root / 'splits' / f'fold_{number}' / 'test.csv'
        (sample,) = SplitBoxDataset(ann_file=str(path), data_root=str(root), test_mode=True)
        assert len(sample['instances']) == len(own)
