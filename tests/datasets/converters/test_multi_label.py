import json
import re

import numpy as np
import pytest

from mmkdml.apis.cli.converters import summary
from mmkdml.datasets.converters import convert_multi_label, multi_label_rows
from mmkdml.datasets.splits import read_split

TABLE = 'Data_Entry_2017.csv'
# The first lines of the published table have these columns and values.
HEADER = 'Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age'
FINDINGS = {
    '00000001_000': ('Cardiomegaly', 1),
    '00000001_001': ('Cardiomegaly|Emphysema', 1),
    '00000002_000': ('No Finding', 2),
    '00000003_000': ('Hernia', 3),
    '00000004_000': ('Mass|Nodule', 4),
    '00000005_000': ('', 5),
    '00000005_001': ('Mass', 5),
    '00000006_000': ('No Finding', 6),
}


def write(source, lines, name=TABLE, header=HEADER):
    (source / name).write_text('\n'.join([header, *lines]) + '\n')


@pytest.fixture
def nih(tmp_path, save):
    source = tmp_path / 'nih'
    for place, name in enumerate(FINDINGS):
        save(source / f'images_00{place % 2}' / 'images' / f'{name}.png', np.full((4, 4), place))
    write(
        source,
        [f'{k}.png,{finding},0,{patient},058Y' for k, (finding, patient) in FINDINGS.items()],
    )
    return source


def test_findings_of_the_published_table(nih):
    rows, classes = multi_label_rows(nih, TABLE)
    assert classes == ('Cardiomegaly', 'Emphysema', 'Hernia', 'Mass', 'Nodule')
    found = {row.id.rpartition('/')[2]: row for row in rows}
    assert found.keys() == FINDINGS.keys()
    for name, (finding, patient) in FINDINGS.items():
        row = found[name]
        expected = () if finding in ('', 'No Finding') else tuple(finding.split('|'))
        assert (row.labels, row.label) == (expected, int(bool(expected)))
        assert row.group == str(patient)
        assert (nih / row.path).is_file()


def test_columns_of_single_classes(nih):
    lines = [f'{name},{k % 2},{"" if k < 4 else "1.0"}' for k, name in enumerate(FINDINGS)]
    write(nih, lines, 'own.csv', 'file,Mass,Edema')
    options = dict(image='file', group=None, class_columns=['Mass', 'Edema'])
    rows, classes = multi_label_rows(nih, 'own.csv', **options)
    assert classes == ('Mass', 'Edema')
    by_name = {row.id.rpartition('/')[2]: row for row in rows}
    assert [by_name[name].labels for name in FINDINGS] == [
        (), ('Mass',), (), ('Mass',), ('Edema',), ('Mass', 'Edema'), ('Edema',), ('Mass', 'Edema'),
    ]  # fmt: skip
    assert all(row.group == row.id for row in rows)


def test_splits_keep_patients_together_and_labels(nih, tmp_path):
    splits = convert_multi_label(nih, tmp_path / 'out', TABLE, ratios=(50, 25, 25))
    groups = [{row.group for row in rows} for rows in splits.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 6
    for name, rows in splits.items():
        assert read_split(tmp_path / 'out' / f'{name}.csv') == rows
    info = json.loads((tmp_path / 'out' / 'splits.json').read_text())
    assert info['classes'] == ['Cardiomegaly', 'Emphysema', 'Hernia', 'Mass', 'Nodule']
    lines = summary(splits, info['classes']).splitlines()
    assert lines[0].split()[-5:] == info['classes']
    totals = np.sum([list(map(int, line.split()[1:])) for line in lines[1:]], axis=0)
    assert totals.tolist() == [8, 6, 2, 1, 1, 2, 1]


def test_published_test_list(nih, tmp_path):
    (nih / 'test_list.txt').write_text('00000005_000.png\n00000005_001.png\n\n00000003_000.png\n')
    splits = convert_multi_label(
        nih, tmp_path, TABLE, test_list='test_list.txt', ratios=(80, 20, 9)
    )
    assert {row.group for row in splits['test']} == {'3', '5'}
    assert {row.group for row in (*splits['train'], *splits['val'])} == {'1', '2', '4', '6'}
    (nih / 'test_list.txt').write_text('00000005_000.png\n')
    with pytest.raises(ValueError, match="'5'"):
        convert_multi_label(nih, tmp_path, TABLE, test_list='test_list.txt', force=True)
    (nih / 'test_list.txt').write_text('x.png\n')
    with pytest.raises(ValueError, match=r"test_list.txt: expected one image 'x.png', got none"):
        convert_multi_label(nih, tmp_path, TABLE, test_list='test_list.txt', force=True)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('x.png,Mass,0,9,1', "line 10: expected one image 'x.png', got none"),
        ('00000001_000.png,Mass,0,1,1', "duplicate Image Index '00000001_000.png'"),
        ('new.png,No Finding|Mass,0,9,1', "'No Finding' without other labels"),
        ('new.png,Mass|Mass,0,9,1', 'labels of different names'),
        ('new.png,Mass||Hernia,0,9,1', 'labels of different names'),
        ('new.png,Mass,0, ,1', 'group is empty'),
        ('', 'new.png: no row in Data_Entry_2017.csv'),
    ],
)
def test_invalid_rows_raise(nih, save, line, message):
    save(nih / 'new.png', np.zeros((4, 4)))
    with (nih / TABLE).open('a') as file:
        file.write(line + '\n')
    with pytest.raises(ValueError, match=re.escape(message)):
        multi_label_rows(nih, TABLE)


def test_invalid_tables_raise(nih):
    with pytest.raises(ValueError, match='without Sex'):
        multi_label_rows(nih, TABLE, group='Sex')
    write(nih, [f'{name},-1' for name in FINDINGS], 'own.csv', 'image,Mass')
    with pytest.raises(ValueError, match="0, 1 or nothing as Mass, got '-1'"):
        multi_label_rows(nih, 'own.csv', 'image', None, class_columns=['Mass'])
    write(nih, [f'{name},No Finding' for name in FINDINGS], 'own.csv', 'image,found')
    with pytest.raises(ValueError, match='an image with a class, got none in 8 rows'):
        multi_label_rows(nih, 'own.csv', 'image', None, 'found')


def test_damaged_image_raises(nih):
    path = next(nih.rglob('00000003_000.png'))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match='00000003_000.png'):
        multi_label_rows(nih, TABLE)


def test_ambiguous_names_raise(nih, save):
    save(nih / 'copy' / '00000003_000.png', np.zeros((4, 4)))
    with pytest.raises(ValueError, match='got copy/00000003_000.png, images_001/images/0'):
        multi_label_rows(nih, TABLE)


@pytest.mark.parametrize(
    ('rule', 'labels'),
    [
        ('zeros', [(), ('Mass',), (), ('Edema',)]),
        ('ones', [('Mass',), ('Mass', 'Edema'), (), ('Edema',)]),
        ('drop', [None, None, (), ('Edema',)]),
    ],
)
def test_uncertain_labels(tmp_path, save, rule, labels):
    """The values of CheXpert: blank, 0.0, 1.0 and -1.0."""
    cells = ['-1.0,0.0', '1.0,-1', ',', '0,1']
    for place in range(4):
        save(tmp_path / f'{place}.png', np.full((4, 4), place))
    write(tmp_path, [f'{k}.png,{cell}' for k, cell in enumerate(cells)], 'a.csv', 'file,Mass,Edema')
    options = dict(image='file', group=None, class_columns=['Mass', 'Edema'])
    with pytest.raises(ValueError, match=r"line 2: .* Mass, got '-1.0'.*--uncertain.* zeros, ones"):
        multi_label_rows(tmp_path, 'a.csv', **options)
    if rule == 'drop':
        with pytest.warns(UserWarning, match='2 of 4 images with uncertain labels'):
            rows, _ = multi_label_rows(tmp_path, 'a.csv', **options, uncertain=rule)
    else:
        rows, _ = multi_label_rows(tmp_path, 'a.csv', **options, uncertain=rule)
    found = {row.id: row.labels for row in rows}
    assert [found.get(str(place)) for place in range(4)] == labels


def test_separator(tmp_path, save):
    for place in range(2):
        save(tmp_path / f'{place}.png', np.full((4, 4), place))
    write(tmp_path, ['0.png,Mass; Edema', '1.png,none'], 'a.tsv', 'file,names')
    options = dict(image='file', group=None, labels='names', no_class='none')
    rows, classes = multi_label_rows(tmp_path, 'a.tsv', **options, separator=';')
    assert classes == ('Edema', 'Mass')
    assert [row.labels for row in rows] == [('Mass', 'Edema'), ()]
    with pytest.raises(ValueError, match='Invalid separator'):
        multi_label_rows(tmp_path, 'a.tsv', **options, separator='')


@pytest.mark.parametrize(
    ('options', 'message'),
    [(dict(uncertain='zeros'), '--class-columns'), (dict(uncertain='maybe'), 'uncertain.*maybe')],
)
def test_invalid_uncertain_raises(nih, options, message):
    with pytest.raises(ValueError, match=message):
        multi_label_rows(nih, TABLE, **options)


def test_folds_have_each_image_once_but_not_with_published_lists(nih, tmp_path):
    splits = convert_multi_label(nih, tmp_path / 'out', TABLE, folds=2, ratios=(50, 50, 0))
    tested = [row.id for fold in range(2) for row in splits[f'fold_{fold}/test']]
    assert len(tested) == len(set(tested)) == len(FINDINGS)
    with pytest.raises(ValueError, match='folds: expected none with test_list.* got 2'):
        convert_multi_label(nih, tmp_path / 'other', TABLE, test_list='t.txt', folds=2)
