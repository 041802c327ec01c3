import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkdml.datasets.coco_json import Box, BoxImage, coco_json, read_coco

CLASSES = ('b', 'a')


def content(**changes):
    one = dict(
        images=[dict(id=7, file_name='x.png', width=20, height=10), dict(id=3, file_name='y.png',
                width=5, height=5)],
        annotations=[
            dict(id=1, image_id=7, category_id=9, bbox=[1, 2, 3, 4]),
            dict(id=2, image_id=7, category_id=4, bbox=[0.5, 0, 2, 2.25], iscrowd=1),
        ],
        categories=[dict(id=9, name='late'), dict(id=4, name='early')],
    )  # fmt: skip
    return one | changes


def write(tmp_path, text):
    path = tmp_path / 'boxes.json'
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_read(tmp_path):
    classes, images = read_coco(write(tmp_path, content()))
    assert classes == ('early', 'late')
    assert images == [
        BoxImage(
            7,
            'x.png',
            (20, 10),
            (
                Box(1, (1, 2, 4, 6), False, 'annotation 1'),
                Box(0, (0.5, 0, 2.5, 2.25), True, 'annotation 2'),
            ),
        ),
        BoxImage(3, 'y.png', (5, 5), ()),
    ]


numbers = st.integers(-(2**20), 2**20).map(lambda value: value / 16)
boxes = st.builds(
    lambda label, corners, ignored: Box(label, corners, ignored),
    st.integers(0, 1),
    st.tuples(numbers, numbers, numbers, numbers),
    st.booleans(),
)


@given(st.lists(st.lists(boxes, max_size=4), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_written_files_are_read(tmp_path_factory, lists):
    images = [
        BoxImage(number, f'{number}.png', (8, 9), tuple(own)) for number, own in enumerate(lists, 5)
    ]
    path = tmp_path_factory.getbasetemp() / 'round.json'
    path.write_bytes(coco_json(CLASSES, images))
    classes, found = read_coco(path)
    assert classes == CLASSES
    assert [
        image._replace(boxes=tuple(box._replace(where='') for box in image.boxes))
        for image in found
    ] == images


def test_pycocotools_reads_written_files(tmp_path, capsys):
    coco = pytest.importorskip('pycocotools.coco')
    own = (Box(1, (1, 2, 4.5, 6)), Box(0, (0, 0, 2, 2), True))
    path = tmp_path / 'boxes.json'
    path.write_bytes(coco_json(CLASSES, [BoxImage(4, 'x.png', (20, 10), own)]))
    read = coco.COCO(str(path))
    found = read.loadAnns(read.getAnnIds(imgIds=[4]))
    assert [one['bbox'] for one in found] == [[1, 2, 3.5, 4], [0, 0, 2, 2]]
    assert [one['area'] for one in found] == [14, 4]
    assert [read.loadCats(one['category_id'])[0]['name'] for one in found] == ['a', 'b']
    assert read.getAnnIds(imgIds=[4], iscrowd=True) == [found[1]['id']]


BOX = dict(id=1, image_id=7, category_id=9, bbox=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(annotations=[BOX, BOX]), 'annotation 1: duplicate id'),
        (dict(annotations=[BOX | dict(id='1')]), 'annotation 0 of the list: expected an object'),
        (dict(annotations=[BOX | dict(id=True)]), 'annotation 0 of the list: expected an object'),
        (dict(annotations=[None]), 'annotation 0 of the list: expected an object'),
        (dict(annotations=[BOX | dict(image_id=1)]), 'expected the id of an image as image_id'),
        (dict(annotations=[BOX | dict(image_id=[7])]), 'image_id, got [7]'),
        (dict(annotations=[BOX | dict(category_id=1)]), 'category as category_id, got 1'),
        (dict(annotations=[BOX | dict(bbox=[1, 2, 3])]), 'four finite numbers as bbox, got [1,'),
        (dict(annotations=[BOX | dict(bbox=[1, 2, 3, '4'])]), 'four finite numbers as bbox'),
        (dict(annotations=[BOX | dict(bbox=[1, 2, 3, float('nan')])]), '3, nan]'),
        (dict(annotations=[BOX | dict(bbox=[1, 2, 3, 1e300])]), '1e+300]'),
        (dict(annotations=[BOX | dict(bbox=[True, 2, 3, 4])]), 'bbox, got [True'),
        (dict(annotations=[BOX | dict(bbox=[10**400, 2, 3, 4])]), 'bbox, got [1000'),
        (dict(images=[dict(id=1, width=5, height=5)]), 'expected a path as file_name, got None'),
        (dict(images=[dict(id=1, file_name='x', width=0, height=5)]), 'got (0, 5)'),
        (dict(images=[dict(id=1, file_name='x', width=2.5, height=5)]), 'got (2.5, 5)'),
        (
            dict(images=[dict(id=n, file_name='x', width=5, height=5) for n in (1, 2)]),
            "image 2: duplicate file_name 'x', also of image 1",
        ),
        (dict(categories=[dict(id=9, name=' ')]), 'category 9: expected a name'),
        (dict(categories=[dict(id=9, name='a'), dict(id=4, name='a')]), "duplicate category 'a'"),
        (dict(categories={}), 'with the lists images, annotations, categories'),
    ],
)
def test_invalid_content_raises(tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_coco(write(tmp_path, content(**changes)))
    assert 'boxes.json' in str(error.value)


@pytest.mark.parametrize('text', ['', '[]', '{"images": []}', '[' * 100_000, '\x00', '\ud800'])
def test_other_files_raise(tmp_path, text):
    path = tmp_path / 'boxes.json'
    path.write_bytes(text.encode('utf-8', 'surrogatepass'))
    with pytest.raises(ValueError, match='boxes.json: expected COCO JSON'):
        read_coco(path)


def test_huge_files_are_not_read(tmp_path):
    path = tmp_path / 'boxes.json'
    with path.open('wb') as file:
        file.truncate(2**31 + 1)  # sparse
    with pytest.raises(ValueError, match='expected at most 2 GiB, got 2.0'):
        read_coco(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'No COCO JSON file .*none.json'):
        read_coco(tmp_path / 'none.json')


def test_all_problems_are_reported(tmp_path):
    found = []
    wrong = [BOX | dict(id=number, bbox=[]) for number in range(3)]
    _, images = read_coco(
        write(tmp_path, content(annotations=[*wrong, BOX | dict(id=9)])), found.append
    )
    assert [one.split(':')[0] for one in found] == [f'annotation {number}' for number in range(3)]
    assert len(images[0].boxes) == 1
