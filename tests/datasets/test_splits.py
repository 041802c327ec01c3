import random
import re

import pytest

from mmkdml.datasets.splits import (
    SplitRow,
    assign_groups,
    read_split,
    refuse_shared_groups,
    split_rows,
    write_splits,
)

ROWS = [SplitRow(f'{g}{i}', f'{g}/{i}.tif', g, i % 2) for g in 'abcdefgh' for i in range(5)]


def row(name, group='g', mask=None):
    return SplitRow(name, f'{name}.tif', group, 0, mask)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(id=' '), 'id is empty'),
        (dict(group=''), 'group is empty'),
        (dict(path='/abs/x.tif'), "relative path .* got '/abs/x.tif'"),
        (dict(path='a\\x.tif'), 'forward slashes'),
        (dict(path='../x.tif'), 'stays inside'),
        (dict(path=''), "got ''"),
        (dict(mask='../m.tif'), "got '../m.tif'"),
        (dict(label=-1), 'label, got -1'),
    ],
)
def test_a_row_refuses_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        SplitRow(**{**dict(id='x', path='x.tif', group='g', label=0), **fields})


def test_no_group_is_ever_in_two_splits_and_no_image_is_lost():
    rng = random.Random(0)
    for _ in range(300):
        rows = [
            row(f'{g}_{i}', str(g))
            for g in range(rng.randint(3, 40))
            for i in range(rng.randint(1, 30))
        ]
        ratios = [rng.choice([rng.random(), 1, 10]) for _ in range(3)]
        splits = split_rows(rows, ratios, seed=rng.randint(0, 99))
        groups = [{r.group for r in part} for part in splits.values()]
        assert set(splits) == {'train', 'val', 'test'}
        assert all(groups)
        assert len(set.union(*groups)) == sum(map(len, groups))
        assert sorted(r.id for part in splits.values() for r in part) == sorted(r.id for r in rows)


def test_shares_are_met_to_within_a_group():
    rng = random.Random(1)
    sizes = {f'p{i:03}': rng.randint(20, 88) for i in range(110)}
    for seed in range(20):
        assigned = assign_groups(sizes, (75, 10, 15), seed)
        for split, share in zip(('train', 'val', 'test'), (0.75, 0.1, 0.15), strict=True):
            count = sum(sizes[g] for g, s in assigned.items() if s == split)
            assert abs(count - share * sum(sizes.values())) <= max(sizes.values())


def test_images_of_groups_of_one_meet_the_shares_exactly():
    rows = [row(f'{i:03}', f'{i}') for i in range(200)]
    assert [len(part) for part in split_rows(rows, (75, 10, 15)).values()] == [150, 20, 30]


def test_by_image_divides_groups():
    splits = split_rows(ROWS, by_image=True)
    assert [len(part) for part in splits.values()] == [30, 4, 6]
    with pytest.raises(ValueError, match="group '.' is in train and in "):
        refuse_shared_groups(splits)


def test_the_seed_alone_decides():
    shuffled = random.Random(3).sample(ROWS, len(ROWS))
    assert split_rows(ROWS, seed=5) == split_rows(shuffled, seed=5)
    assert split_rows(ROWS, (0.75, 0.1, 0.15), 5) == split_rows(ROWS, (75, 10, 15), 5)
    assert len({str(split_rows(ROWS, seed=seed)) for seed in range(10)}) > 5


def test_the_split_stays_what_it_was():
    """Published results name a seed: these are to stay the same for all versions to come."""
    assigned = assign_groups(dict.fromkeys('abcdefgh', 10), (2, 1, 1), seed=0)
    assert assigned == dict(
        a='test', b='train', c='val', d='train', e='test', f='train', g='val', h='train'
    )


def test_few_groups_fill_every_split():
    assert sorted(assign_groups(dict(a=1, b=1, c=98), (98, 1, 1), 0).values()) == [
        'test',
        'train',
        'val',
    ]


def test_a_share_of_zero_leaves_the_split_out():
    assert set(split_rows(ROWS, (80, 0, 20))) == {'train', 'test'}


@pytest.mark.parametrize(
    'ratios', [(1, 1), (1, 1, -1), (0, 0, 0), (1, float('nan'), 1), (1, float('inf'), 1)]
)
def test_ratios_that_cannot_be(ratios):
    with pytest.raises(ValueError, match='three finite ratios of at least 0.*got'):
        split_rows(ROWS, ratios)


def test_fewer_groups_than_splits():
    with pytest.raises(ValueError, match=r"at least 3 groups.* train, val, test, got 2: \['a'"):
        split_rows([r for r in ROWS if r.group in 'ab'])


def test_an_id_that_comes_twice():
    twice = [row('x', 'a'), row('y', 'b'), SplitRow('x', 'elsewhere.tif', 'c', 0)]
    with pytest.raises(ValueError, match="id 'x' comes twice: x.tif and elsewhere.tif"):
        split_rows(twice)
    with pytest.raises(ValueError, match="id 'x' comes twice"):
        write_splits('nowhere', dict(train=twice[:1], val=twice[:1]), {})


@pytest.mark.parametrize('mask', [None, 'm, "1".tif'])
def test_what_is_written_is_read(tmp_path, mask):
    rows = [row('b', 'g, "1"', mask), row('a', 'ü', mask)]
    files = write_splits(tmp_path, dict(train=rows, test=[row('c', 'h', mask)]), dict(seed=1))
    assert [f.name for f in files] == ['train.csv', 'test.csv', 'splits.json']
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert read_split(tmp_path / 'train.csv') == sorted(rows, key=lambda r: r.id)


def test_bytes_are_the_same_and_portable(tmp_path):
    for name, rows in (('one', ROWS), ('two', ROWS[::-1])):
        write_splits(tmp_path / name, split_rows(rows, seed=2), dict(seed=2))
    one = {p.name: p.read_bytes() for p in (tmp_path / 'one').iterdir()}
    assert one == {p.name: p.read_bytes() for p in (tmp_path / 'two').iterdir()}
    assert len(one) == 4
    assert not any(
        b'\r' in content or str(tmp_path).encode() in content for content in one.values()
    )


def test_other_splits_are_replaced_only_by_force(tmp_path):
    write_splits(tmp_path, split_rows(ROWS, seed=1), dict(seed=1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_splits(tmp_path, split_rows(ROWS, seed=1), dict(seed=1))  # the same: nothing to refuse
    other = split_rows(ROWS, (80, 0, 20), seed=1)
    with pytest.raises(FileExistsError, match='holds other splits .*val.csv.* --force'):
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
def test_splits_that_cannot_be_written(tmp_path, splits, message):
    with pytest.raises(ValueError, match=message):
        write_splits(tmp_path, splits, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "line 1: expected the columns .*got ''"),
        ('id,path,label\n', "line 1: expected the columns id,path,group.* got 'id,path,label'"),
        ('id,path,group,label\n', 'has no rows'),
        ('id,path,group,label\na,a.tif,g,1\nb,b.tif,g\n', 'line 3: expected 4 values .* got 3'),
        ('id,path,group,label\na,a.tif,g,tumour\n', "line 2: .* label, got 'tumour'"),
        ('id,path,group,label\na,a.tif,g,-1\n', "line 2: .* label, got '-1'"),
        ('id,path,group,label\na,/a.tif,g,1\n', 'line 2: expected a relative path'),
        ('id,path,mask,group,label\na,a.tif,,g,1\n', "line 2: .* got ''"),
        (
            'id,path,group,label\na,a.tif,g,1\nb,b.tif,g,1\na,c.tif,g,1\n',
            "line 4: id 'a' comes twice, first in line 2",
        ),
        ('id,path,group,label\n"a,a.tif,g,1\n', 'line 2: unexpected end of data'),
    ],
)
def test_a_split_file_that_is_not_valid(tmp_path, text, message):
    path = tmp_path / 'broken.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'{re.escape(str(path))}.*{message}'):
        read_split(path)


def test_a_split_file_that_is_not_text(tmp_path):
    (tmp_path / 'x.csv').write_bytes(b'id,path,group,label\n\xff\xfe\n')
    with pytest.raises(ValueError, match=r'x.csv, line \d: .*utf-8'):
        read_split(tmp_path / 'x.csv')


def test_no_split_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no split file .*x.csv; make it .*ann_file'):
        read_split(tmp_path / 'x.csv')
