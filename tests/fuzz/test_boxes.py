"""Boxes in COCO JSON, XML and YOLO files with any content."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mmkdml.datasets.coco_json import read_coco
from mmkdml.datasets.converters import convert_coco, convert_voc, convert_yolo

NUMBERS = st.integers(-3, 12) | st.floats() | st.sampled_from([True, None, '1', 10**400, [], {}])
NAMES = st.sampled_from(['0.png', '1.png', '../0.png', '/etc/passwd', '', ' ', 'x.png', 0])
TEXTS = st.sampled_from(['0', '1', '.5', 'nan', '1e999', '-2', 'cell', '&a;', '<', '']) | st.text(
    st.characters(codec='utf-8'), max_size=4
)
COCO = st.fixed_dictionaries(
    dict(
        images=st.lists(
            st.fixed_dictionaries(dict(id=NUMBERS, file_name=NAMES, width=NUMBERS, height=NUMBERS))
            | NUMBERS,
            max_size=3,
        ),
        annotations=st.lists(
            st.fixed_dictionaries(
                dict(
                    id=NUMBERS,
                    image_id=NUMBERS,
                    category_id=NUMBERS,
                    bbox=st.lists(NUMBERS, min_size=3, max_size=5) | NUMBERS,
                    iscrowd=NUMBERS,
                )
            ),
            max_size=3,
        ),
        categories=st.lists(st.fixed_dictionaries(dict(id=NUMBERS, name=TEXTS)), max_size=2),
    )
)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Two images, with folders for their annotations."""
    folder = tmp_path_factory.mktemp('boxes')
    for name in ('images', 'xml', 'labels'):
        (folder / name).mkdir()
    for number in range(2):
        pixels = np.zeros((8, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{number}.png')
        (folder / 'xml' / f'{number}.xml').write_text('<annotation/>')
        (folder / 'labels' / f'{number}.txt').write_text('')
    (folder / 'data.yaml').write_text('names: [cell]')
    return folder


def check(out, splits):
    """Check that the written boxes are inside of their images."""
    if splits:
        for image in read_coco(out / 'annotations.json')[1]:
            assert image.size == (10, 8)
            for x1, y1, x2, y2 in (box.corners for box in image.boxes):
                assert 0 <= x1 < x2 <= 10.001
                assert 0 <= y1 < y2 <= 8.001


OPTIONS = dict(ratios=(1, 0, 1), force=True)


@pytest.mark.filterwarnings('ignore::UserWarning')
@given(
    COCO.map(lambda content: json.dumps(content).encode()) | st.binary(max_size=40), st.booleans()
)
@example(b'[' * 100_000, False)
def test_any_coco_json(source, attempt, content, repair):
    (source / 'boxes.json').write_bytes(content)
    drop = ('empty', 'duplicates') if repair else ()
    files = source / 'out', ['boxes.json'], ['images']
    check(
        source / 'out',
        attempt(lambda: convert_coco(source, *files, clip=repair, drop=drop, **OPTIONS)),
    )


@pytest.mark.filterwarnings('ignore::UserWarning')
@given(
    st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS), max_size=3),
    TEXTS,
    st.sampled_from(['', '<!DOCTYPE a [<!ENTITY a "1">]>', '<?xml version="1.1"?>', '\0']),
)
@example([('a', '1', '1', '3', '3')], '10', '')
def test_any_xml(source, attempt, objects, width, start):
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    text = ''.join(
        f'<object><name>{name}</name><bndbox>'
        + ''.join(f'<{key}>{value}</{key}>' for key, value in zip(keys, corners, strict=True))
        + '</bndbox></object>'
        for name, *corners in objects
    )
    size = f'<size><width>{width}</width><height>8</height></size>'
    (source / 'xml' / '0.xml').write_text(f'{start}<annotation>{size}{text}</annotation>')
    files = source / 'out', 'images', 'xml'
    check(source / 'out', attempt(lambda: convert_voc(source, *files, clip=True, **OPTIONS)))


@pytest.mark.filterwarnings('ignore::UserWarning')
@given(
    st.lists(st.lists(TEXTS, max_size=6).map(' '.join), max_size=3).map('\n'.join),
    st.sampled_from(
        ['[cell]', '{0: a, 1: b}', '{0: a, b: c}', '{true: a}', '[[a]]', '&a [*a]', '1']
    ),
)
@example('0 .5 .5 .5 .5\n1 .5 .5 1 1', '{0: a, 1: b}')
def test_any_yolo(source, attempt, text, names):
    (source / 'labels' / '0.txt').write_text(text, encoding='utf-8')
    (source / 'data.yaml').write_text(f'names: {names}')
    check(
        source / 'out', attempt(lambda: convert_yolo(source, source / 'out', clip=True, **OPTIONS))
    )
