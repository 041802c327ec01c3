import re

import numpy as np
import pytest

from mmkdml.datasets.converters import convert_voc, voc_boxes
from mmkdml.datasets.splits import read_split

NAMES = ['p1_0', 'p1_1', 'p2_0', 'p2_1', 'p3_0', 'p3_1']


def xml(name='p1_0', objects='', size='<size><width>30</width><height>20</height></size>'):
    return f'<annotation><filename>{name}.png</filename>{size}{objects}</annotation>'


def one(name='cell', corners=(2, 3, 12, 9), extra=''):
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    box = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(keys, corners, strict=True))
    return f'<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>'


@pytest.fixture
def source(tmp_path, save):
    """Six images of three patients, with one cell each but for the last."""
    root = tmp_path / 'voc'
    (root / 'Annotations').mkdir(parents=True)
    for name in NAMES:
        save(root / 'JPEGImages' / f'{name}.png', np.zeros((20, 30, 3)))
        write(root, xml(name, one() * (name != NAMES[-1])), name)
    return root


def write(root, text, name='p1_0'):
    path = root / 'Annotations' / f'{name}.xml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_boxes(source):
    write(
        source, xml(objects=one('b', (1, 2, 3, 4.5)) + one('a', extra='<difficult>1</difficult>'))
    )
    found = voc_boxes(source)
    assert found.classes == ('a', 'b', 'cell')
    first = found.images[0]
    assert first.path == 'JPEGImages/p1_0.png'
    assert [(box.label, box.corners, box.ignored) for box in first.boxes] == [
        (1, (1, 2, 3, 4.5), False),
        (0, (2, 3, 12, 9), True),
    ]
    assert found.rows[0].labels == ('b',)
    assert [row.id for row in found.rows] == NAMES
    assert found.rows[-1].labels == ()


def test_one_based_pixels_include_the_last(source):
    """The box of all pixels of the image, in the convention of Pascal VOC itself."""
    write(source, xml(objects=one(corners=(1, 1, 30, 20))))
    assert voc_boxes(source, one_based=True).images[0].boxes[0].corners == (0, 0, 30, 20)
    assert voc_boxes(source).images[0].boxes[0].corners == (1, 1, 30, 20)
    write(source, xml(objects=one(corners=(0, 1, 30, 20))))
    with pytest.raises(
        ValueError, match=re.escape('outside of the image, (-1.0, 0.0, 30.0, 20.0)')
    ):
        voc_boxes(source, one_based=True)


def test_classes_can_be_given(source):
    assert voc_boxes(source, classes=['other', 'cell']).images[0].boxes[0].label == 1
    with pytest.raises(ValueError, match=r"p1_0.xml: unknown class 'cell', expected one of \('x',"):
        voc_boxes(source, classes=['x'])


BOMB = '<!DOCTYPE a [<!ENTITY b "1"><!ENTITY c "&b;&b;">]>' + xml(objects=one('&c;'))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (BOMB, 'expected XML without a document type, got <!DOCTYPE a>'),
        (BOMB.encode('utf-16'), 'expected XML without a document type'),
        (
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + xml(objects=one('&b;')),
            'without a document type',
        ),
        ('<annotation>', 'expected XML, got no element found'),
        ('', 'expected XML, got no element found'),
        ('<a/>', 'expected <annotation>, got <a>'),
        (xml('../../p2_0'), "its filename is of another image, 'p2_0.png'"),
        (xml(objects=one(' ')), 'object 1: expected a name, got none'),
        (xml(objects=one(corners=(1, 'nan', 3, 4))), "finite number as bndbox/ymin, got 'nan'"),
        (xml(objects=one(corners=(1, 2, 'inf', 4))), "finite number as bndbox/xmax, got 'inf'"),
        (xml(objects=one(corners=(1, 2, 'x', 4))), "finite number as bndbox/xmax, got 'x'"),
        (xml(objects='<object><name>a</name></object>'), 'bndbox/xmin, got None'),
        (xml(size='<size><width>30</width></size>'), 'size/height, got None'),
    ],
)
def test_invalid_files_raise(source, text, message):
    write(source, text)
    with pytest.raises(ValueError, match=r'Annotations/p1_0.xml: .*' + re.escape(message)):
        voc_boxes(source)


def test_huge_files_are_not_read(source):
    with (source / 'Annotations' / 'p1_0.xml').open('wb') as file:
        file.truncate(2**24 + 1)
    with pytest.raises(ValueError, match='expected at most 16 MiB, got more'):
        voc_boxes(source)


def test_deep_files_raise(source):
    write(source, '<a>' * 300_000)
    with pytest.raises(ValueError, match='expected XML'):
        voc_boxes(source)


@pytest.mark.parametrize('name', ['/etc/passwd', '..\\p1_0.png', 'C:\\cells\\p1_0.png', 'p1_0'])
def test_paths_in_files_are_not_used(source, name):
    write(source, xml(objects=one()).replace('p1_0.png', name))
    if name.startswith('/'):
        with pytest.raises(ValueError, match="of another image, 'passwd'"):
            voc_boxes(source)
    else:
        assert voc_boxes(source).images[0].path == 'JPEGImages/p1_0.png'


@pytest.mark.parametrize('size', ['', '<size><width>0</width><height>0</height></size>'])
def test_missing_sizes_are_accepted(source, size):
    write(source, xml(objects=one(), size=size))
    assert voc_boxes(source).images[0].size == (30, 20)


def test_files_must_match(source, save):
    save(source / 'JPEGImages' / 'new.png', np.zeros((20, 30, 3)))
    write(source, xml('old'), 'old')
    with pytest.raises(ValueError, match='2 problems|no annotation') as error:
        voc_boxes(source)
    assert 'JPEGImages/new.png: no annotation new.xml in Annotations' in str(error.value)
    assert 'Annotations/old.xml: no image old in JPEGImages' in str(error.value)


def test_a_set_without_objects_raises(source):
    for name in NAMES:
        write(source, xml(name), name)
    with pytest.raises(
        ValueError, match='expected an object in .*Annotations, got none in 6 files'
    ):
        voc_boxes(source)


@pytest.mark.parametrize('folder', ['..', '/tmp', 'Annotations/../..'])
def test_folders_must_be_inside(source, folder):
    with pytest.raises(ValueError, match=re.escape(repr(folder))):
        voc_boxes(source, images=folder)


def lists(source, **names):
    (source / 'Sets').mkdir(exist_ok=True)
    for split, own in names.items():
        (source / 'Sets' / f'{split}.txt').write_text('\n'.join(own) + '\n')


def test_published_splits(source, tmp_path):
    lists(source, train=NAMES[:3], test=['p3_1.png', ' ', 'p2_1 '])
    with pytest.warns(UserWarning, match='1 of 6 images are in no split'):
        convert_voc(source, tmp_path / 'out', image_sets='Sets')
    assert [row.id for row in read_split(tmp_path / 'out' / 'train.csv')] == NAMES[:3]
    assert [row.id for row in read_split(tmp_path / 'out' / 'test.csv')] == ['p2_1', 'p3_1']
    assert not (tmp_path / 'out' / 'val.csv').exists()


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (dict(train=NAMES, test=['p9_9']), "test.txt, line 1: no image 'p9_9'"),
        (dict(train=NAMES, test=NAMES[:1]), 'test.txt, line 1: p1_0 is also in train.txt'),
        (dict(train=NAMES[:1], test=NAMES[1:]), "group 'p1' is in train and in test"),
        (dict(other=NAMES), 'expected train.txt, val.txt, test.txt in'),
        (dict(train=NAMES, test=[]), 'expected rows for some of the splits'),
    ],
)
def test_invalid_published_splits_raise(source, tmp_path, names, message):
    lists(source, **names)
    with pytest.raises(ValueError, match=re.escape(message)):
        convert_voc(source, tmp_path / 'out', image_sets='Sets', group_regex=r'(p\d)_')


def test_tool(source, tmp_path, run_tool, capsys):
    write(source, xml(objects=one(corners=(2, 3, 2, 9)) + one() * 2 + one(corners=(2, 3, 99, 9))))
    out = tmp_path / 'out'
    options = ['--out', out, '--group-regex', r'(p\d)_', '--ratios', 1, 1, 1]
    with pytest.raises(SystemExit, match='voc.py: error: Invalid source folder'):
        run_tool('voc.py', source, *options)
    run_tool('voc.py', source, *options, '--clip', '--drop', 'empty', 'duplicates')
    printed = capsys.readouterr()
    table = [line.split() for line in printed.out.splitlines()]
    assert table[0] == ['split', 'images', 'groups', 'boxes', 'cell']
    assert sum(int(row[3]) for row in table[1:4]) == 6
    assert '1 of 8 boxes are duplicates and dropped' in printed.err
    assert 'write a config for your data' in printed.out


def test_folds_keep_groups(source, tmp_path):
    options = dict(group_regex='(p.)_', ratios=(50, 50, 0))
    splits = convert_voc(source, tmp_path, folds=3, **options)
    for fold in range(3):
        assert len({row.group for row in splits[f'fold_{fold}/test']}) == 1
    with pytest.raises(ValueError, match='folds: expected 2 to 3'):
        convert_voc(source, tmp_path / 'x', folds=4, **options)
