import numpy as np
import pytest
from PIL import Image

from mmkdml.datasets.class_masks import (
    IGNORED,
    MASK_TABLE,
    ClassTable,
    class_palette,
    data_set_classes,
    read_class_mask,
)
from mmkdml.datasets.images import ImageHeader

INDICES = np.random.default_rng(0).integers(0, 4, (5, 7)).astype(np.uint8)
COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 255))
BY_VALUE = ClassTable((0, 1, 2, 3))


def with_palette(indices, colors=COLORS):
    image = Image.fromarray(indices)
    image.putpalette([part for color in colors for part in color])
    return image


@pytest.mark.parametrize(
    ('suffix', 'image', 'table'),
    [
        ('png', Image.fromarray(INDICES), BY_VALUE),
        ('tif', Image.fromarray(INDICES), BY_VALUE),
        ('png', with_palette(INDICES), BY_VALUE),
        ('tif', with_palette(INDICES), BY_VALUE),
        ('png', with_palette(INDICES), ClassTable(COLORS)),
        # The colors decide, not the indices.
        ('png', with_palette(3 - INDICES, COLORS[::-1]), ClassTable(COLORS)),
        ('png', Image.fromarray(np.uint8(COLORS)[INDICES]), ClassTable(COLORS)),
        ('tif', Image.fromarray(np.uint8(COLORS)[INDICES]), ClassTable(COLORS)),
        ('png', Image.fromarray(INDICES * np.uint8(60)), ClassTable((0, 60, 120, 180))),
        ('png', Image.fromarray(3 - INDICES), ClassTable((3, 2, 1, 0))),
        ('png', Image.fromarray(INDICES * np.uint16(700)), ClassTable((0, 700, 1400, 2100))),
        ('tif', Image.fromarray(INDICES * np.uint16(700)), ClassTable((0, 700, 1400, 2100))),
    ],
)
def test_every_kind_of_file_has_the_same_classes(tmp_path, suffix, image, table):
    image.save(tmp_path / f'mask.{suffix}')
    mask = read_class_mask(tmp_path / f'mask.{suffix}', table)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, INDICES)


@pytest.mark.parametrize(
    ('table', 'pixels', 'ignored'),
    [
        (ClassTable((0, 1), ignore=(2, 255)), np.uint8([[0, 1, 2, 255]]), [0, 1, 255, 255]),
        (
            ClassTable(COLORS[:2], ignore=((255, 255, 255),)),
            np.uint8([[COLORS[1], (255, 255, 255), COLORS[0]]]),
            [1, 255, 0],
        ),
    ],
)
def test_ignored_values_are_255(tmp_path, table, pixels, ignored):
    Image.fromarray(pixels).save(tmp_path / 'mask.png')
    assert read_class_mask(tmp_path / 'mask.png', table)[0].tolist() == ignored
    assert IGNORED == 255


@pytest.mark.parametrize(
    ('name', 'pixels', 'table', 'message'),
    [
        ('a.png', [[0, 9, 9, 7]], BY_VALUE, r'a\.png: expected the values 0 1 2 3.*7 \(1 .*9 \(2'),
        ('b.png', [[(0, 0, 0), (1, 2, 3)]], ClassTable(COLORS), r'b\.png.* got 1,2,3 \(1 pixels\)'),
        ('c.png', [[(0, 0, 0), (1, 2, 3)]], BY_VALUE, r'c\.png.* mode RGB.*r, g and b'),
        ('d.jpg', [[0, 200] * 8] * 16, ClassTable((0, 1)), r'd\.jpg.*JPEG alters values'),
        ('e.png', [list(range(20))], BY_VALUE, r'11 \(1 pixels\), \.\.\.'),
    ],
)
def test_unknown_values_name_file_and_values(tmp_path, name, pixels, table, message):
    Image.fromarray(np.uint8(pixels)).save(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_class_mask(tmp_path / name, table)


def test_several_pages_and_damaged_files_raise(tmp_path):
    page = Image.fromarray(INDICES)
    page.save(tmp_path / 'stack.tif', save_all=True, append_images=[page])
    with pytest.raises(ValueError, match=r'stack\.tif.*several pages'):
        read_class_mask(tmp_path / 'stack.tif', BY_VALUE)
    (tmp_path / 'none.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'none\.png'):
        read_class_mask(tmp_path / 'none.png', BY_VALUE)


def test_masks_are_rotated_with_their_image(tmp_path):
    Image.fromarray(INDICES).save(tmp_path / 'mask.png')
    turned = read_class_mask(tmp_path / 'mask.png', BY_VALUE, ImageHeader((7, 5), 6))
    assert np.array_equal(turned, np.rot90(INDICES, -1))
    with pytest.raises(ValueError, match='the mask is 7x5, its image 9x5'):
        read_class_mask(tmp_path / 'mask.png', BY_VALUE, ImageHeader((9, 5)))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(values=(0,)), 'expected 2 to 255 classes, got 1'),
        (dict(values=tuple(range(256))), 'expected 2 to 255 classes, got 256'),
        (dict(values=(0, 1, 1)), 'each value once, got 1'),
        (dict(values=(0, 1), ignore=(1,)), 'each value once, got 1'),
        (dict(values=(0, 70000)), r'\[0, 65535\].* got 70000'),
        (dict(values=(0, -1)), 'got -1'),
        (dict(values=(0, 'x')), 'got x'),
        (dict(values=((0, 0, 0), (0, 0, 256))), 'got 0,0,256'),
        (dict(values=((0, 0, 0), (0, 0))), 'got 0,0'),
        (dict(values=((0, 0, 0), 1)), 'only values or only colors.* 0,0,0 1'),
        (dict(values=(0, 1), ignore=((0, 0, 0),)), 'only values or only colors'),
        (dict(values=(0, 1, 2), colors=COLORS), 'a color for each of 3 classes, got 4'),
    ],
)
def test_invalid_tables_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassTable(**arguments)
    with pytest.raises(ValueError, match=f'Invalid mask_table.*{message}'):
        ClassTable.from_info(arguments)


def test_tables_survive_json():
    import json

    for table in (BY_VALUE, ClassTable(COLORS, ((1, 1, 1),)), ClassTable((0, 5), (9,), COLORS[:2])):
        assert ClassTable.from_info(json.loads(json.dumps(table.to_info()))) == table
    for invalid in ([0, 1], dict(ignore=[1]), dict(values=3), dict(values='01'), dict(x=1)):
        with pytest.raises(ValueError, match='Invalid mask_table'):
            ClassTable.from_info(invalid)


def test_palette_is_that_of_pascal_voc():
    # The first colors of the VOC devkit's color map.
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    expected += [(0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0)]
    assert [tuple(color) for color in class_palette(10)] == expected
    assert len({tuple(color) for color in class_palette(255)}) == 255


MANIFEST = {'classes': ['a', 'b', 'c'], MASK_TABLE: dict(values=[0, 5, 9], ignore=[255])}


def test_classes_come_from_the_manifest():
    info, table = data_set_classes({}, MANIFEST)
    assert info['classes'] == ('a', 'b', 'c')
    assert info['palette'] == class_palette(3)
    assert table == ClassTable.from_info(info[MASK_TABLE]) == ClassTable((0, 5, 9), (255,))
    assert data_set_classes(dict(classes=['a', 'b', 'c']), MANIFEST)[1] == table


@pytest.mark.parametrize(
    ('metainfo', 'manifest', 'table', 'values'),
    [
        ({}, {}, None, None),
        (dict(classes=('x', 'y')), {}, None, None),
        (dict(classes=('x', 'y')), dict(seed=0), None, None),
        (dict(classes='xyz'), {}, dict(values=(7, 8, 9)), (7, 8, 9)),
        (dict(classes=('x', 'y', 'z')), {}, None, (0, 1, 2)),
        (dict(classes=('x', 'y')), dict(seed=0), dict(values=(0, 3)), (0, 3)),
    ],
)
def test_table_of_data_without_one_in_the_manifest(tmp_path, metainfo, manifest, table, values):
    if metainfo.get('classes') == 'xyz':  # a file of names, as in mmengine
        (tmp_path / 'names.txt').write_text('x\ny\nz\n')
        metainfo = dict(classes=str(tmp_path / 'names.txt'))
    found = data_set_classes(metainfo, manifest, table)[1]
    assert (found and found.values) == values


@pytest.mark.parametrize(
    ('classes', 'manifest', 'table', 'message'),
    [
        ('ab', MANIFEST, None, r"expected 3 classes, \('a', 'b', 'c'\).* got \('a', 'b'\)"),
        ('acb', MANIFEST, None, r"expected 3 classes.* got \('a', 'c', 'b'\)"),
        ('abc', dict(seed=0), None, 'expected two classes, the background first.*--classes'),
        ('a', {}, None, 'expected two classes'),
        ('abc', {}, dict(values=(0, 1)), 'expected 2 names, as mask_table has 2 values'),
        ('', {}, dict(values=(0, 1)), 'expected 2 names.* got None'),
    ],
)
def test_wrong_numbers_of_classes_raise(classes, manifest, table, message):
    with pytest.raises(ValueError, match=message):
        data_set_classes(dict(classes=tuple(classes)), manifest, table)
