import json
import re

import numpy as np
import pytest
from PIL import Image

from mmkdml.datasets.coco_json import Box, BoxImage, coco_json
from mmkdml.datasets.converters import coco_boxes, convert_coco
from mmkdml.datasets.splits import read_split

CLASSES = ('red', 'white')


@pytest.fixture
def source(tmp_path, save):
    """Two folders with two images of two patients each, and a JSON file for each folder."""
    root = tmp_path / 'coco'
    for number, folder in enumerate(('a', 'b')):
        images = [
            BoxImage(n + 1, f'p{2 * number + n}/x.png', (30, 20), (Box(n, (1, 2, 3, 4)),))
            for n in range(2)
        ]
        for image in images:
            save(root / folder / image.path, np.full((20, 30, 3), number))
        (root / f'{folder}.json').write_bytes(coco_json(CLASSES, images))
    return root


def edit(source, change, name='a.json'):
    content = json.loads((source / name).read_text())
    change(content)
    (source / name).write_text(json.dumps(content))


def test_one_file(source):
    found = coco_boxes(source, ['a.json'], ['a'])
    assert [(row.id, row.path) for row in found.rows] == [
        ('p0/x', 'a/p0/x.png'),
        ('p1/x', 'a/p1/x.png'),
    ]
    assert [image.id for image in found.images] == [1, 2]
    assert found.classes == CLASSES


def test_images_without_annotations_are_negatives(source):
    edit(source, lambda content: content['annotations'].clear())
    assert [row.labels for row in coco_boxes(source, ['a.json'], ['a']).rows] == [(), ()]


def test_published_splits(source, tmp_path, run_tool, capsys):
    out = tmp_path / 'out'
    files = ['--annotations', 'a.json', 'b.json', '--images', 'a', 'b']
    run_tool('coco.py', source, '--out', out, *files)
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:3]] == [
        ['split', 'images', 'groups', 'boxes', 'red', 'white'],
        ['train', '2', '2', '2', '1', '1'],
        ['val', '2', '2', '2', '1', '1'],
    ]
    assert [row.path for row in read_split(out / 'val.csv')] == ['b/p2/x.png', 'b/p3/x.png']
    content = json.loads((out / 'annotations.json').read_text())
    assert [one['id'] for one in content['images']] == [1, 2, 3, 4]  # ids of the files are equal
    assert [one['file_name'] for one in content['images']] == [
        'a/p0/x.png',
        'a/p1/x.png',
        'b/p2/x.png',
        'b/p3/x.png',
    ]


def test_published_splits_must_not_share_groups(source, tmp_path):
    files = (['a.json', 'b.json'], ['a', 'b'])
    with pytest.raises(ValueError, match="group 'x' is in train and in val"):
        convert_coco(source, tmp_path / 'out', *files, group_regex=r'/(x)\.')
    # The same image in both files.
    edit(source, lambda content: content['images'][0].update(file_name='p0/x.png'), 'b.json')
    edit(source, lambda content: content['images'][1].update(file_name='p1/x.png'), 'b.json')
    with pytest.raises(ValueError, match="group 'a/p0/x.png' is in train and in val"):
        convert_coco(source, tmp_path / 'out', files[0], ['a'])


def test_files_need_equal_classes(source):
    edit(source, lambda content: content['categories'][0].update(name='other'), 'b.json')
    with pytest.raises(
        ValueError, match=r"b.json: expected the classes of a.json, \('red', 'white'\), got"
    ):
        coco_boxes(source, ['a.json', 'b.json'], ['a', 'b'])


@pytest.mark.parametrize('name', ['../x.png', '/etc/passwd', 'p0\\x.png', 'C:/x.png', 'a/../../x'])
def test_paths_must_be_inside(source, name):
    Image.new('RGB', (30, 20)).save(source.parent / 'x.png')
    edit(source, lambda content: content['images'][0].update(file_name=name))
    with pytest.raises(ValueError, match=r'a.json: image 1: expected a relative path') as error:
        coco_boxes(source, ['a.json'], ['a'])
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ('files', 'folders', 'message'),
    [
        (['../a.json'], ['a'], "'../a.json'"),
        (['a.json'], ['..'], "'..'"),
        (['a.json'], ['a', 'b'], 'one folder of images or as many'),
        ([], ['a'], 'expected 1 to 3 files'),
        (['a.json'] * 4, ['a'], 'expected 1 to 3 files'),
    ],
)
def test_invalid_arguments_raise(source, files, folders, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        coco_boxes(source, files, folders)


def test_links_out_of_the_source_are_counted(source, tmp_path, run_tool, capsys):
    (source / 'a').rename(tmp_path / 'elsewhere')
    (source / 'a').symlink_to(tmp_path / 'elsewhere')
    options = ['--annotations', 'a.json', '--images', 'a', '--ratios', 1, 0, 1]
    run_tool('coco.py', source, '--out', tmp_path / 'out', *options)
    assert 'need allow_outside=True' in capsys.readouterr().err


def test_unlisted_images_warn(source):
    def add_folder(content):
        for image in content['images']:
            image['file_name'] = f'a/{image["file_name"]}'

    edit(source, add_folder)
    with pytest.warns(UserWarning, match=r'2 images are in no file .* such as b/p2/x.png'):
        coco_boxes(source, ['a.json'])


def test_damaged_and_missing_images_raise(source):
    (source / 'a' / 'p0' / 'x.png').write_bytes(b'no image')
    (source / 'a' / 'p1' / 'x.png').unlink()
    with pytest.raises(ValueError, match='a/p0/x.png: unreadable image') as error:
        coco_boxes(source, ['a.json'], ['a'])
    assert 'a/p1/x.png: no such image' in str(error.value)


def test_problems_of_the_file_and_of_boxes_are_listed(source):
    edit(source, lambda content: content['annotations'][0].update(category_id=5))
    edit(source, lambda content: content['annotations'].append(content['annotations'][1]))
    with pytest.raises(ValueError, match='Invalid source folder') as error:
        coco_boxes(source, ['a.json'], ['a'])
    assert 'a.json: annotation 1: expected the id of a category' in str(error.value)
    assert 'a.json: annotation 2: duplicate id' in str(error.value)


def test_empty_sets_raise(source):
    edit(source, lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(ValueError, match=r'categories and images in a.json, got none'):
        coco_boxes(source, ['a.json'], ['a'])


def test_folds_share_the_boxes(source, tmp_path):
    with pytest.raises(ValueError, match='folds: expected none with published splits'):
        convert_coco(source, tmp_path, ['a.json', 'b.json'], ['a', 'b'], folds=2)
    splits = convert_coco(source, tmp_path, ['a.json'], ['a'], ratios=(1, 0, 0), folds=2)
    assert {name: len(rows) for name, rows in splits.items()} == {
        f'fold_{fold}/{part}': 1 for fold in range(2) for part in ('train', 'test')
    }
    content = json.loads((tmp_path / 'annotations.json').read_text())
    assert len(content['images']) == 2
    info = json.loads((tmp_path / 'splits.json').read_text())
    assert sum(info['boxes'][f'fold_{fold}/test']['red'] for fold in range(2)) == 1
