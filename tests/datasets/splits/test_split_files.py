import json
import re
from dataclasses import replace

import pytest

from mmkdml.datasets.splits import SplitRow, read_split, write_folds, write_splits
from mmkdml.datasets.splits.split_files import by_fold, split_counts
from mmkdml.datasets.splits.splitting import split_rows

ROWS = [SplitRow(f'{g}{i}', f'{g}/{i}.tif', g, i % 2) for g in 'abcdefgh' for i in range(5)]


def row(name, group='g', mask=None):
    return SplitRow(name, f'{name}.tif', group, 0, mask)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(id=' '), 'id is empty'),
        (dict(group=''), 'group is empty'),
        (dict(id=' x'), "id .* got ' x'"),
        (dict(group='g '), "group .* got 'g '"),  # 'g' and 'g ' would be two patients
        (dict(path='/abs/x.tif'), "relative path .* got '/abs/x.tif'"),
        (dict(path='a\\x.tif'), 'forward slashes'),
        (dict(path='../x.tif'), 'stays inside'),
        (dict(mask='a/../../x.tif'), 'stays inside'),
        (dict(path='C:/x.tif'), 'stays inside'),
        (dict(path='C:x.tif'), 'stays inside'),
        (dict(path='http://x.org/y.tif'), 'stays inside'),
        (dict(path='a:s3://y.tif'), 'stays inside'),
        (dict(path='x.tif\0.png'), r'got .x\.tif.x00\.png'),
        (dict(path=''), "got ''"),
        (dict(mask='../m.tif'), "got '../m.tif'"),
        (dict(label=-1), 'label, got -1'),
        (dict(repeats=0), 'repeats of 1 or more, got 0'),
    ],
)
def test_invalid_row_fields_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        SplitRow(**{**dict(id='x', path='x.tif', group='g', label=0), **fields})


def test_duplicate_image_raises(tmp_path):
    """Two masks of an image, such as by two annotators, are two samples."""
    masks = [SplitRow(name, 'x.tif', 'g', 0, f'{name}.png') for name in 'ab']
    assert read_split(write_splits(tmp_path / 'masks', {'train': masks}, {})[0]) == masks
    twice = {'train': [row('x')], 'test': [SplitRow('y', './x.tif', 'h', 1)]}
    with pytest.raises(ValueError, match="duplicate image './x.tif': ids 'x' and 'y'"):
        write_splits(tmp_path, twice, {})
    path = tmp_path / 'mine.csv'
    path.write_text('id,path,group,label\nx,x.tif,g,0\ny,./x.tif,g,1\n')
    with pytest.raises(ValueError, match="line 3: duplicate image './x.tif', first in line 2"):
        read_split(path)


def test_duplicate_id_raises():
    twice = [row('x', 'a'), row('y', 'b'), SplitRow('x', 'elsewhere.tif', 'c', 0)]
    with pytest.raises(ValueError, match="duplicate id 'x'"):
        write_splits('nowhere', dict(train=twice[:1], val=twice[:1]), {})


@pytest.mark.parametrize('mask', [None, 'm, "1".tif'])
def test_written_rows_are_read_back(tmp_path, mask):
    rows = [row('b', 'g, "1"', mask), row('a', 'ü', mask)]
    files = write_splits(tmp_path, dict(train=rows, test=[row('c', 'h', mask)]), dict(seed=1))
    assert [f.name for f in files] == ['train.csv', 'test.csv', 'splits.json']
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert read_split(tmp_path / 'train.csv') == sorted(rows, key=lambda r: r.id)


@pytest.mark.parametrize('mask', [None, 'm.tif'])
def test_repeats_are_written_only_if_used(tmp_path, mask):
    plain, twice = row('a', mask=mask), replace(row('b', mask=mask), repeats=2)
    write_splits(tmp_path, dict(train=[twice, plain], val=[row('c', 'h', mask)]), {})
    assert read_split(tmp_path / 'train.csv') == [plain, twice]
    text = (tmp_path / 'train.csv').read_text()
    assert text.splitlines()[0].endswith(',group,label,repeats')
    assert 'repeats' not in (tmp_path / 'val.csv').read_text()
    counts = json.loads((tmp_path / 'splits.json').read_text())['counts']
    assert counts['train'] == dict(images=2, groups=1, positives=0, samples=3)
    assert counts['val'] == dict(images=1, groups=1, positives=0)


def test_classes_above_one_have_no_positives():
    assert split_counts([replace(row('a'), label=2), row('b')]) == dict(images=2, groups=1)


@pytest.mark.parametrize('part', ['val', 'test'])
def test_repeats_in_val_or_test_raise(tmp_path, part):
    twice = replace(row('b'), repeats=2)
    with pytest.raises(ValueError, match=f"{part}: expected no repeats .* got 2 for 'b'"):
        write_splits(tmp_path, {'train': [row('a')], part: [twice]}, {})
    assert not list(tmp_path.iterdir())


def test_files_are_reproducible_and_portable(tmp_path):
    for name, rows in (('one', ROWS), ('two', ROWS[::-1])):
        write_splits(tmp_path / name, split_rows(rows, seed=2), dict(seed=2))
    one = {p.name: p.read_bytes() for p in (tmp_path / 'one').iterdir()}
    assert one == {p.name: p.read_bytes() for p in (tmp_path / 'two').iterdir()}
    assert len(one) == 4
    assert not any(
        b'\r' in content or str(tmp_path).encode() in content for content in one.values()
    )


def test_other_splits_are_replaced_only_with_force(tmp_path):
    write_splits(tmp_path, split_rows(ROWS, seed=1), dict(seed=1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_splits(tmp_path, split_rows(ROWS, seed=1), dict(seed=1))  # equal splits
    other = split_rows(ROWS, (80, 0, 20), seed=1)
    with pytest.raises(FileExistsError, match='contains other splits .*val.csv.* --force'):
        write_splits(tmp_path, other, dict(seed=1))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    write_splits(tmp_path, other, dict(seed=1), force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['splits.json', 'test.csv', 'train.csv']


@pytest.mark.parametrize(
    ('splits', 'message'),
    [
        ({}, r'train.*got \{\}'),
        (dict(train=[]), "got {'train': 0}"),
        (dict(training=[row('a')]), "got {'training': 1}"),
        (
            dict(train=[row('a', mask='m.tif'), row('b')]),
            "all images or for none, but 'b' has none",
        ),
    ],
)
def test_invalid_splits_raise(tmp_path, splits, message):
    with pytest.raises(ValueError, match=message):
        write_splits(tmp_path, splits, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "line 1: expected the columns .*got ''"),
        (
            'id,path,label\n',
            "line 1: expected the columns id,path,mask,group.* got 'id,path,label'",
        ),
        ('id,path,group,label\n', 'expected at least one row'),
        ('id,path,group,label\na,a.tif,g,1\nb,b.tif,g\n', 'line 3: expected 4 values .* got 3'),
        ('id,path,group,label\na,a.tif,g,tumour\n', "line 2: .* label, got 'tumour'"),
        ('id,path,group,label\na,a.tif,g,-1\n', "line 2: .* label, got '-1'"),
        ('id,path,group,label\na,/a.tif,g,1\n', 'line 2: expected a relative path'),
        ('id,path,mask,group,label\na,a.tif,,g,1\n', "line 2: .* got ''"),
        (
            'id,path,group,label\na,a.tif,g,1\nb,b.tif,g,1\na,c.tif,g,1\n',
            "line 4: duplicate id 'a', first in line 2",
        ),
        ('id,path,group,label\n"a,a.tif,g,1\n', 'line 2: unexpected end of data'),
        ('id,path,group,label,repeats\na,a.tif,g,1,0\n', 'line 2: expected repeats .* got 0'),
        ('id,path,group,label,repeats\na,a.tif,g,1,\n', "line 2: expected repeats .* got ''"),
        ('id,path,repeats,group,label\n', 'line 1: expected the columns .*id,path,repeats,gr'),
    ],
)
def test_invalid_split_file_raises(tmp_path, text, message):
    path = tmp_path / 'broken.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'{re.escape(str(path))}.*{message}'):
        read_split(path)


def test_binary_split_file_raises(tmp_path):
    (tmp_path / 'x.csv').write_bytes(b'id,path,group,label\n\xff\xfe\n')
    with pytest.raises(ValueError, match=r'x.csv, line \d: .*utf-8'):
        read_split(tmp_path / 'x.csv')


def test_missing_split_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match='No split file .*x.csv.*ann_file'):
        read_split(tmp_path / 'x.csv')


def test_labels_are_written_and_read(tmp_path):
    names = [('Mass', 'Pleural Effusion'), (), ('Mass',)]
    rows = [
        SplitRow(f'{k}', f'{k}.png', 'p', int(bool(one)), labels=one) for k, one in enumerate(names)
    ]
    write_splits(tmp_path, dict(train=rows), {})
    text = (tmp_path / 'train.csv').read_text()
    assert text.splitlines()[:2] == [
        'id,path,group,label,labels',
        '0,0.png,p,1,Mass|Pleural Effusion',
    ]
    assert read_split(tmp_path / 'train.csv') == rows
    with pytest.raises(ValueError, match="labels for all images or for none, but 'x' has none"):
        write_splits(tmp_path, dict(train=[*rows, SplitRow('x', 'x.png', 'p', 0)]), {}, force=True)


@pytest.mark.parametrize(
    ('label', 'labels', 'message'),
    [
        (0, ('a',), 'expected label 1'),
        (2, ('a',), 'expected label 1'),
        (1, (), 'expected label 0'),
        (1, ('a', 'a'), 'different names'),
        (1, ('a|b',), 'different names'),
        (1, ('a ',), 'surrounding spaces'),
        (1, ('',), 'different names'),
    ],
)
def test_invalid_labels_raise(label, labels, message):
    with pytest.raises(ValueError, match=message):
        SplitRow('x', 'x.png', 'p', label, labels=labels)


def fold(*names):
    return {part: [SplitRow(n, f'{n}.png', n, 0) for n in names[i]] for i, part in enumerate(PARTS)}


PARTS = ('train', 'val', 'test')


@pytest.mark.parametrize(
    ('folds', 'message'),
    [
        ([fold('bc', 'd', 'a')], 'at least 2 folds, got 1'),
        ([fold('c', 'd', 'ab'), fold('d', 'a', 'bc')], "'d' in 0"),
        ([fold('c', 'd', 'ab'), fold('b', 'a', 'acd')], "'a' in 2"),
        ([fold('b', 'a', 'ac'), fold('a', 'c', 'b')], "duplicate id 'a'"),
    ],
)
def test_invalid_folds_raise(tmp_path, folds, message):
    with pytest.raises(ValueError, match=message):
        write_folds(tmp_path, folds, {})
    assert not list(tmp_path.iterdir())


def test_folds_are_written_as_splits_with_their_names(tmp_path):
    folds = [fold('c', 'd', 'ab'), fold('a', 'b', 'cd')]
    named = {f'fold_{k}/{name}': rows for k, one in enumerate(folds) for name, rows in one.items()}
    assert by_fold(named) == {f'fold_{k}': one for k, one in enumerate(folds)}
    assert by_fold(folds[0]) == {'': folds[0]}
    written = [
        write(tmp_path / name, content, dict(seed=1), files={'annotations.json': b'{}'})
        for name, write, content in (('x', write_splits, named), ('y', write_folds, folds))
    ]
    for one, other in zip(*written, strict=True):
        assert one.relative_to(tmp_path / 'x') == other.relative_to(tmp_path / 'y')
        assert one.read_bytes() == other.read_bytes()
    counts = json.loads((tmp_path / 'x' / 'splits.json').read_text())['counts']
    assert counts['fold_1']['test'] == dict(images=2, groups=2, positives=0)
