import re
from pathlib import Path

import pandas as pd
import pytest

from mmkdml.experiments.paper import values as paper
from mmkdml.experiments.paper.values import FIDELITY, NETWORKS, PaperValue, paper_value, table_notes

DATA = Path(paper.__file__).parent / 'data'


def read(name):
    return pd.read_csv(DATA / name, dtype=str, keep_default_na=False)


PRINTED = read('reference_results.csv').query('version == "v2"')
DOUBTS = read('reference_doubts.csv')


@pytest.mark.parametrize(
    ('table', 'cell', 'method', 'text'),
    [
        ('Table 2', ('baseline', '', 'single', 'IoU'), 'r50', '76.86 ± 0.791'),
        ('Table 2', ('baseline', '', 'single', 'accuracy'), 'mbv1', '91.38 ± 0.491'),
        ('Table 4', ('kdml', 'v3', 'ensemble', 'IoU'), '', '80.12 ± 0.597'),
        ('Table 4', ('ml', 'v3', 'ensemble', 'F1'), '', '87.63 ± 0.614'),  # not 87.32, version 1
        ('Table 10', ('comparison', '', 'single', 'accuracy'), 'semckd', '95.41 ± 0.204'),
        ('Table 13', ('baseline', '', 'single', 'recall'), 'r18', '70.95 ± 0.335'),
        ('Table 15', ('kdml', 'v2', 'student_1', 'F1'), '', '93.41 ± 0.622'),
    ],
)
def test_paper_value(table, cell, method, text):
    found = paper_value((table,), *cell, method=method)
    mean, std = map(float, text.split(' ± '))
    assert (found.table, found.mean, found.std, found.text) == (table, mean, std, text)


def test_every_printed_value_is_found():
    assert len(PRINTED) == 604
    for row in PRINTED.to_dict('records'):
        cell = [row[key] for key in ('mode', 'style', 'member', 'metric', 'method', 'quantity')]
        found = paper_value([row['table']], *cell)
        assert found.text == f'{row["mean"]} ± {row["std"]}'


def test_table_with_the_cell_is_found_among_several():
    tables = ('Table 4', 'Table 2')
    assert paper_value(tables, 'kdml', 'v1', 'teacher', 'IoU').table == 'Table 4'
    assert paper_value(tables, 'baseline', '', 'single', 'F1', 'r18').table == 'Table 2'


@pytest.mark.parametrize(
    ('tables', 'cell'),
    [
        ((), ('kdml', 'v3', 'ensemble', 'IoU')),
        (('Table 4',), ('kdml', 'v3', 'ensemble', 'accuracy')),
        (('Table 4',), ('ml', 'v3', 'teacher', 'IoU')),
        (('Table 2',), ('baseline', '', 'single', 'IoU', 'r34')),
        (('Table 2',), ('baseline', '', 'single', 'IoU')),
        (('Table 12',), ('kdml', 'v1', 'ensemble', 'IoU')),  # fidelity is another quantity
        (('Table 12',), ('kd_off', 'v1', 'student_2', 'IoU', '', FIDELITY)),  # missing there
    ],
)
def test_missing_cell_is_none(tables, cell):
    assert paper_value(tables, *cell) is None


def test_fidelity_is_another_quantity():
    found = paper_value(('Table 12',), 'kdml', 'v1', 'ensemble', 'IoU', quantity=FIDELITY)
    assert found == PaperValue('Table 12', 79.97, 2.19, '79.97 ± 2.19', '')


def test_networks_are_those_of_the_baselines():
    baselines = PRINTED[PRINTED['mode'] == 'baseline']
    assert set(NETWORKS.values()) == set(baselines['method'])


def test_unknown_or_ambiguous_tables_raise():
    with pytest.raises(ValueError, match='expected Table 2, Table 3, .*Table 15, got Table 16'):
        paper_value(('Table 4', 'Table 16'), 'ml', 'v1', 'ensemble', 'IoU')
    with pytest.raises(ValueError, match='ml v1 ensemble iou, got Table 9 and Table 4'):
        paper_value(('Table 9', 'Table 4'), 'ml', 'v1', 'ensemble', 'IoU')


def test_value_has_its_doubt():
    found = paper_value(('Table 9',), 'kd_off', 'v1', 'teacher', 'IoU')
    assert (found.text, found.doubt[:30]) == ('76.86 ± 0.691', 'the standard deviation is prob')
    assert paper_value(('Table 9',), 'kd_off', 'v3', 'teacher', 'IoU').doubt == ''
    assert paper_value(('Table 9',), 'kd_off', 'v1', 'teacher', 'F1').doubt == ''


def test_table_notes():
    assert [note[:10] for note in table_notes('Table 12')] == ['many stand', '15 of 54 c']
    assert table_notes('Table 13') == []


KEYS = ['table', 'mode', 'style', 'method', 'member', 'metric']
CELLS = DOUBTS[DOUBTS['mode'] != '']


def test_doubts_belong_to_printed_or_omitted_values():
    merged = CELLS.merge(PRINTED, on=KEYS, how='left')
    assert not CELLS.duplicated(KEYS).any()
    omitted = merged['mean'].isna()
    assert omitted.sum() == 15
    assert (merged['note'].str.startswith('omitted') == omitted).all()
    assert set(merged[omitted]['table']) == {'Table 12'}


def excess(row):
    """Return F1 minus the F1 implied by the IoU of the same cell."""
    cell = (PRINTED[[key for key in KEYS if key != 'metric']] == row[KEYS[:-1]]).all(axis=1)
    iou, f1 = (
        float(PRINTED[cell & (PRINTED['metric'] == m)]['mean'].item()) for m in ('iou', 'f1')
    )
    return f1 - 200 * iou / (100 + iou)


def test_doubts_about_f1_can_be_recomputed():
    pattern = re.compile(r'(\d\.\d\d) (below|above) the value implied by the IoU')
    checked = 0
    for _, row in CELLS.iterrows():
        if match := pattern.search(row['note']):
            size = float(match[1]) * {'below': -1, 'above': 1}[match[2]]
            assert excess(row) == pytest.approx(size, abs=0.0051)
            checked += 1
    assert checked == 22


def test_inconsistent_f1_values_have_doubts():
    keys = [key for key in KEYS if key != 'metric']
    pairs = PRINTED.pivot(index=keys, columns='metric', values='mean').astype(float)
    off = (pairs['f1'] - 200 * pairs['iou'] / (100 + pairs['iou'])).abs() > 1
    marked = set(CELLS[CELLS['metric'] == 'f1'][keys].itertuples(index=False, name=None))
    assert off.sum() == 10
    assert set(pairs.index[off]) <= marked


def test_weights_of_each_student_add_up_to_one():
    weights = read('reference_weights.csv')
    values = weights.filter(regex='_[12]$').astype(float)
    assert len(weights) == 90
    for student in '12':
        assert values.filter(regex=f'_{student}$').sum(axis=1).tolist() == pytest.approx([1] * 90)


def test_table_notes_returns_a_copy():
    table_notes('Table 12').clear()
    assert len(table_notes('Table 12')) == 2
