"""Checks that all converters of boxes share, and that formats give equal files."""

import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmkdml.datasets.coco_json import Box, BoxImage, read_coco
from mmkdml.datasets.converters import convert_coco, convert_voc, convert_yolo
from mmkdml.datasets.converters.box_checks import check_boxes, split_boxes, write_boxes
from mmkdml.datasets.converters.source_checks import Problems
from mmkdml.datasets.splits import read_split

CLASSES = ('red', 'white')


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp('source')
    for number in range(8):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(
            root / f'p{number // 2}_{number}.png'
        )
    return root


def images(*lists, size=(30, 20)):
    return [
        BoxImage(number + 1, f'p{number // 2}_{number}.png', size, tuple(boxes))
        for number, boxes in enumerate(lists)
    ]


def check(source, *lists, **options):
    return check_boxes(Problems(source), images(*lists), CLASSES, **options)


def test_rows(source):
    found = check(
        source,
        [Box(1, (0, 0, 5, 5)), Box(0, (0, 0, 5, 5))],
        [Box(1, (0, 0, 30, 20), ignored=True)],
        [],
        group_regex='(p.)_',
    )
    assert [(r.id, r.group, r.label, r.labels) for r in found.rows] == [
        ('p0_0', 'p0', 1, CLASSES),
        ('p0_1', 'p0', 0, ()),  # ignored boxes are no objects
        ('p1_2', 'p1', 0, ()),
    ]
    assert [len(image.boxes) for image in found.images] == [2, 1, 0]


corner = st.integers(-400, 600).map(lambda value: value / 8)


@given(st.tuples(corner, corner, corner, corner))
@settings(max_examples=60, deadline=None)
def test_clipping_equals_that_of_pixels(source, corners):
    """Count small squares of the image that the box covers."""
    fine = (np.arange(30 * 8) + 0.5) / 8, (np.arange(20 * 8) + 0.5) / 8
    (x1, y1, x2, y2) = corners
    columns = fine[0][(x1 < fine[0]) & (fine[0] < x2)]
    rows = fine[1][(y1 < fine[1]) & (fine[1] < y2)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = check(source, [Box(0, corners)], clip=True, drop=('empty',))
    expected = []
    if len(columns) and len(rows):
        half = 1 / 16
        expected = [(columns[0] - half, rows[0] - half, columns[-1] + half, rows[-1] + half)]
    assert [box.corners for box in found.images[0].boxes] == expected


@pytest.mark.parametrize(
    ('boxes', 'message', 'options'),
    [
        ([(3, 4, 3, 9)], 'one 0: empty box (3, 4, 3, 9) in 30x20 pixels', dict(drop=['empty'])),
        ([(3, 9, 8, 4)], 'one 0: empty box', dict(drop=['empty'])),
        ([(0, 0, 31, 9)], 'one 0: box outside of the image, (0, 0, 31, 9)', dict(clip=True)),
        ([(-3, 0, 31, 9)], 'one 0: box outside', dict(clip=True)),
        ([(30, 0, 35, 9)], 'one 0: box outside', dict(clip=True, drop=['empty'])),
        ([(300, 0, 350, 9)], 'one 0: box outside', dict(clip=True, drop=['empty'])),
        ([(1, 2, 3, 4)] * 2, 'one 1: duplicate box (1, 2, 3, 4)', dict(drop=['duplicates'])),
        (
            [(0, 0, 40, 9), (0, 0, 50, 9)],
            'one 1: box outside',
            dict(clip=True, drop=['duplicates']),
        ),
    ],
)
def test_invalid_boxes_are_listed_or_repaired(source, boxes, message, options):
    boxes = [Box(0, one, where=f'one {n}') for n, one in enumerate(boxes)]
    with pytest.raises(ValueError, match=re.escape(f'p0_0.png: {message}')):
        check(source, boxes)
    with pytest.warns(UserWarning, match=rf'[12] of {len(boxes)} boxes are'):
        found = check(source, boxes, **options)
    for box in found.images[0].boxes:
        x1, y1, x2, y2 = box.corners
        assert 0 <= x1 < x2 <= 30
        assert 0 <= y1 < y2 <= 20


def test_boxes_outside_are_not_dropped_as_empty(source):
    with pytest.raises(ValueError, match='box outside'):
        check(source, [Box(0, (300, 0, 350, 9))], drop=['empty'])
    with pytest.raises(ValueError, match='empty box'):
        check(source, [Box(0, (300, 0, 350, 9))], clip=True)


def test_warnings_count_what_changes(source, recwarn):
    check(
        source,
        [Box(0, (0, 0, 40, 9)), Box(0, (1, 1, 2, 2)), Box(0, (1, 1, 2, 2)), Box(0, (1, 1, 1, 2))],
        [Box(0, (0, 0, 40, 9))],
        clip=True,
        drop=['empty', 'duplicates'],
    )
    assert sorted(str(one.message) for one in recwarn) == [
        '1 of 5 boxes are duplicates and dropped',
        '1 of 5 boxes are empty and dropped',
        '2 of 5 boxes are clipped to their images',
    ]


def test_equal_boxes_of_two_classes_and_rounding_are_accepted(source, recwarn):
    boxes = [Box(0, (1, 1, 9, 9)), Box(1, (1, 1, 9, 9)), Box(0, (0, 0, 30.001, 20))]
    found = check(source, boxes)
    assert found.images[0].boxes[2].corners == (0, 0, 30, 20)
    assert not recwarn


def test_problems_of_several_images_are_one_error(source):
    lists = [[Box(0, (0, 0, 0, 0), where='x')]] * 3
    with pytest.raises(ValueError, match='Invalid source folder') as error:
        check(source, *lists)
    assert str(error.value).count('empty box') == 3


def test_invalid_options_raise(source):
    with pytest.raises(ValueError, match='drop'):
        check(source, [], drop=['all'])


@pytest.mark.parametrize(
    ('orientation', 'size', 'message'),
    [
        (6, (30, 20), 'is 20x30, its annotation 30x20, the size before EXIF rotation'),
        (1, (30, 21), 'is 30x20, its annotation 30x21$'),
    ],
)
def test_other_sizes_raise(tmp_path, orientation, size, message):
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new('RGB', (30, 20)).save(tmp_path / 'p0_0.png', exif=exif)
    with pytest.raises(ValueError, match=message):
        check_boxes(Problems(tmp_path), images([], size=size), CLASSES)


@pytest.mark.parametrize(
    ('orientation', 'size', 'warns'),
    [(6, (20, 30), 0), (6, None, 1), (3, (30, 20), 1), (1, None, 0)],
)
def test_unproven_orientation_warns(tmp_path, recwarn, orientation, size, warns):
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new('RGB', (30, 20)).save(tmp_path / 'p0_0.png', exif=exif)
    found = check_boxes(Problems(tmp_path), images([], size=size), CLASSES)
    assert found.images[0].size == ((20, 30) if orientation == 6 else (30, 20))
    assert [str(one.message)[:35] for one in recwarn] == [
        '1 images have an EXIF orientation, '
    ] * warns


def test_groups_stay_in_one_split(source, tmp_path):
    found = check(source, *[[Box(0, (0, 0, 5, 5))]] * 8, group_regex='(p.)_')
    splits = split_boxes(found, (2, 1, 1), seed=0)
    groups = [{row.group for row in rows} for rows in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 4
    listed = dict(train={'p0_0.png', 'p1_2.png'}, test={'p0_1.png'})
    with pytest.raises(ValueError, match="group 'p0' is in train and in test"):
        split_boxes(found, (2, 1, 1), 0, listed)
    listed['test'] = {'p2_4.png'}
    with pytest.warns(UserWarning, match='5 of 8 images are in no split'):
        splits = split_boxes(found, (2, 1, 1), 0, listed)
    write_boxes(tmp_path, splits, found, {}, False)
    info = json.loads((tmp_path / 'splits.json').read_text())
    assert info['boxes'] == dict(train=dict(red=2, white=0), test=dict(red=1, white=0))
    assert info['classes'] == list(CLASSES)
    assert 'annotations.json' in info['sha256']
    assert [image.path for image in read_coco(tmp_path / 'annotations.json')[1]] == [
        'p0_0.png',
        'p1_2.png',
        'p2_4.png',
    ]
    assert [row.id for row in read_split(tmp_path / 'test.csv')] == ['p2_4']


def test_formats_give_equal_files(tmp_path, source):
    """The same boxes as COCO JSON, in XML files and as fractions."""
    rng = np.random.default_rng(0)
    categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
    coco = dict(images=[], annotations=[], categories=categories)
    for folder in ('images', 'labels', 'xml'):
        (tmp_path / folder).mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        (tmp_path / 'images' / path.name).write_bytes(path.read_bytes())
        coco['images'].append(dict(id=number + 1, file_name=path.name, width=30, height=20))
        objects, lines = '', ''
        for _ in range(number % 3):
            label, x, y = int(rng.integers(2)), *rng.integers(0, 10, 2).tolist()
            w, h = rng.integers(1, 10, 2).tolist()
            own = dict(image_id=number + 1, category_id=label + 1, bbox=[x, y, w, h])
            coco['annotations'].append(dict(own, id=len(coco['annotations']) + 1))
            objects += (
                f'<object><name>{CLASSES[label]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>'
                f'<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>'
            )
            numbers = (x + w / 2) / 30, (y + h / 2) / 20, w / 30, h / 20
            lines += f'{label} ' + ' '.join(f'{value:.6f}' for value in numbers) + '\n'
        (tmp_path / 'xml' / f'{path.stem}.xml').write_text(
            f'<annotation><filename>{path.name}</filename><size><width>30</width>'
            f'<height>20</height></size>{objects}</annotation>'
        )
        (tmp_path / 'labels' / f'{path.stem}.txt').write_text(lines)
    (tmp_path / 'data.yaml').write_text('names: {0: red, 1: white}')
    (tmp_path / 'boxes.json').write_text(json.dumps(coco))
    options = dict(group_regex=r'(p\d)_', ratios=(2, 1, 1), seed=3)
    outs = {name: tmp_path.parent / f'{tmp_path.name}_{name}' for name in ('coco', 'voc', 'yolo')}
    convert_coco(tmp_path, outs['coco'], ['boxes.json'], ['images'], **options)
    convert_voc(tmp_path, outs['voc'], 'images', 'xml', **options)
    convert_yolo(tmp_path, outs['yolo'], **options)
    for name in ('train', 'val', 'test'):
        rows = [
            [(r.path, r.group, r.labels) for r in read_split(o / f'{name}.csv')]
            for o in outs.values()
        ]
        assert rows[0] == rows[1] == rows[2]
    first = json.loads((outs['coco'] / 'annotations.json').read_text())
    assert first == json.loads((outs['voc'] / 'annotations.json').read_text())
    third = json.loads((outs['yolo'] / 'annotations.json').read_text())
    for one, other in zip(first['annotations'], third['annotations'], strict=True):
        assert other['bbox'] == pytest.approx(one['bbox'], abs=1e-3)
        assert one['category_id'] == other['category_id']
        assert one['image_id'] == other['image_id']
