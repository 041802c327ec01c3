import re

import numpy as np
import pytest

from mmkdml.datasets.converters import convert_yolo, yolo_boxes
from mmkdml.datasets.splits import read_split

FOLDERS = ('train', 'valid', 'test')
NAMES = [f'{split}/images/p{number}_{split}.png' for split in FOLDERS for number in range(2)]


@pytest.fixture
def source(tmp_path, save):
    """Six images in the layout of Roboflow."""
    root = tmp_path / 'yolo'
    for name in NAMES:
        save(root / name, np.zeros((20, 40, 3)))
        write(root, '1 0.5 0.5 0.25 0.5\n\n0 .1 .1 .2 .2\n', name)
    (root / 'data.yaml').write_text('train: ../train/images\nnc: 2\nnames: [red, white]\n')
    (root / 'README.txt').write_text('other text')
    return root


def write(root, text, name=NAMES[0]):
    path = root / name.replace('images', 'labels').replace('.png', '.txt')
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_boxes(source):
    found = yolo_boxes(source)
    assert found.classes == ('red', 'white')
    assert [image.path for image in found.images] == sorted(NAMES)
    assert [(box.label, box.corners) for box in found.images[0].boxes] == [
        (1, (15, 5, 25, 15)),
        (0, (0, 0, 8, pytest.approx(4))),
    ]


def test_text_next_to_the_image_and_names_in_lines(tmp_path, save):
    save(tmp_path / 'a' / 'x.png', np.zeros((20, 40, 3)))
    (tmp_path / 'a' / 'x.txt').write_text('0 .5 .5 1 1')
    (tmp_path / 'a' / 'classes.txt').write_text('cell\n')
    found = yolo_boxes(tmp_path, 'a/classes.txt')
    assert found.classes == ('cell',)
    assert found.images[0].boxes[0].corners == (0, 0, 40, 20)


def test_negatives(source):
    write(source, ' \n')
    assert [len(image.boxes) for image in yolo_boxes(source).images].count(0) == 1
    (source / 'train' / 'labels' / 'p0_train.txt').unlink()
    with pytest.raises(ValueError, match=r'p0_train.png: no annotation train/labels/p0_train.txt'):
        yolo_boxes(source)
    found = yolo_boxes(source, missing_is_empty=True)
    assert [len(image.boxes) for image in found.images].count(0) == 1


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('2 .5 .5 .1 .1', "line 1: unknown class '2', expected 0 to 1"),
        ('-1 .5 .5 .1 .1', "line 1: unknown class '-1'"),
        ('0.0 .5 .5 .1 .1', "line 1: unknown class '0.0'"),
        ('\n0 .5 .5 .1', 'line 2: expected class, center x, center y, width and height, got 4'),
        ('0 .1 .1 .2 .2 .3 .3 .4', 'got 8 words'),
        ('0 .5 .5 nan .1', 'line 1: expected finite numbers'),
        ('0 .5 .5 x .1', 'line 1: could not convert'),
        ('0 320 240 64 64', 'line 1 of p0_train.txt: box outside of the image'),
        ('0 .5 .5 0 .1', 'line 1 of p0_train.txt: empty box'),
        ('0 .5 .5 .1 .1\n0 .5 .5 .1 .1', 'line 2 of p0_train.txt: duplicate box'),
        (b'\xff\xfe\x00', "can't decode"),
    ],
)
def test_invalid_lines_raise(source, text, message):
    write(source, text)
    with pytest.raises(ValueError, match='Invalid source folder') as error:
        yolo_boxes(source)
    assert message in str(error.value)
    assert 'train/' in str(error.value)


def test_huge_files_are_not_read(source):
    with (source / 'train' / 'labels' / 'p0_train.txt').open('wb') as file:
        file.truncate(2**24 + 1)
    with pytest.raises(ValueError, match='expected at most 16 MiB, got more'):
        yolo_boxes(source)


def test_files_must_match(source, save):
    write(source, '', 'train/images/new.png')
    save(source / 'train' / 'images' / 'p0_train.jpg', np.zeros((20, 40, 3)))
    with pytest.raises(ValueError, match='Invalid source folder') as error:
        yolo_boxes(source)
    assert 'train/labels/new.txt: no image' in str(error.value)
    assert 'p0_train.png: differs from another image only in the suffix' in str(error.value)
    assert 'README' not in str(error.value)


@pytest.mark.parametrize(
    'text',
    [
        'names: {0: red, 2: white}',
        'names: [red, red]',
        'names: {0: red, a: white}',
        'names: [red, 3]',
        'names: []',
        'nc: 2',
        '[]',
        'names: !!python/object/apply:os.getcwd []',
        ': :',
        'names: ' + '[' * 3000,
    ],
)
def test_invalid_classes_raise(source, text):
    (source / 'data.yaml').write_text(text)
    with pytest.raises(ValueError, match=r'data.yaml: expected names'):
        yolo_boxes(source)


def test_classes_file_must_be_inside(source, tmp_path):
    (tmp_path / 'names.txt').write_text('a')
    for name in ('../names.txt', str(tmp_path / 'names.txt')):
        with pytest.raises(ValueError, match=re.escape(name)):
            yolo_boxes(source, name)
    with pytest.raises(FileNotFoundError, match=r'none.yaml with the names .*--classes-file'):
        yolo_boxes(source, 'none.yaml')


def test_split_by_folders(source, tmp_path, run_tool, capsys):
    out = tmp_path / 'out'
    run_tool('yolo.py', source, '--out', out, '--split', 'folders')
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:4]] == [
        ['split', 'images', 'groups', 'boxes', 'red', 'white'],
        *([split, '2', '2', '4', '2', '2'] for split in ('train', 'val', 'test')),
    ]
    assert all('valid/images' in row.path for row in read_split(out / 'val.csv'))
    with pytest.raises(ValueError, match="group 'p0' is in train and in val"):
        convert_yolo(source, tmp_path / 'x', split='folders', group_regex=r'(p\d)_')


def test_split_by_folders_needs_folders(tmp_path, save):
    save(tmp_path / 'yolo' / 'x.png', np.zeros((20, 40, 3)))
    (tmp_path / 'yolo' / 'x.txt').write_text('0 .5 .5 1 1')
    (tmp_path / 'yolo' / 'data.yaml').write_text('names: [a]')
    with pytest.raises(ValueError, match='expected images in folders train, val, test of'):
        convert_yolo(tmp_path / 'yolo', tmp_path / 'out', split='folders')


def test_folds_need_a_random_division(source, tmp_path):
    splits = convert_yolo(source, tmp_path, folds=2, ratios=(50, 50, 0))
    assert [len(splits[f'fold_{fold}/test']) for fold in range(2)] == [3, 3]
    with pytest.raises(ValueError, match='folds: expected none with published splits'):
        convert_yolo(source, tmp_path / 'x', split='folders', folds=2)
