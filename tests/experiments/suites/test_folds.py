import pandas as pd
import pytest

from mmkdml.experiments.suites.folds import pool_folds
from mmkdml.statistics.counts import count_members
from mmkdml.statistics.measures import class_count
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING, Measurement, RunRecord

COLUMNS = ['member', 'id', 'group', 'label', 'tp', 'fp', 'fn']


def record(fold, state=DONE, error=None, names='', checkpoints=('best', 'last')):
    cases = pd.DataFrame(
        [(m, n, f'g{n}', 1, ord(n) % 7, 2, 3) for m in ('s', 'ensemble') for n in names],
        columns=COLUMNS,
    )
    measured = {one: Measurement({'s/IoU': 10.0 * fold, 's/F1': 1.0}, cases) for one in checkpoints}
    curves = pd.DataFrame([(1, 'loss', 1.0 + fold)], columns=['epoch', 'key', 'value'])
    metadata = dict(seconds=2.0, config='c.py', splits=dict(test=dict(images=len(names))))
    return RunRecord(
        f'kd/fold_{fold}', 3, 'kdml', 'v3', state, error, measured, curves, metadata,
        {'panels/panels.png': f'{fold}.png'},
    )  # fmt: skip


def test_cases_of_all_folds_are_pooled():
    parts = [record(0, names='ab'), record(1, names='c'), record(2, names='def')]
    pooled = pool_folds('kd', parts)
    assert (pooled.name, pooled.seed, pooled.mode, pooled.style) == ('kd', 3, 'kdml', 'v3')
    assert (pooled.state, pooled.error, pooled.folds) == (DONE, None, 3)
    cases = pooled.measured['best'].cases
    assert sorted(cases[cases.member == 'ensemble'].id) == list('abcdef')
    # Counts are those of all cases, not means of the folds.
    counts = count_members(cases, class_count(cases))['s'].total()
    each = [
        count_members(one.measured['best'].cases, class_count(cases))['s'].total() for one in parts
    ]
    assert counts == pytest.approx(sum(each), rel=1e-12)
    assert pooled.measured['last'].metrics == {'s/IoU': 10.0, 's/F1': 1.0}
    assert pooled.curves.value.tolist() == [2.0]
    assert (pooled.metadata['seconds'], pooled.metadata['config']) == (6.0, 'c.py')
    assert pooled.metadata['splits']['fold_2/test'] == dict(images=3)
    assert pooled.pictures['fold_1/panels/panels.png'] == '1.png'


@pytest.mark.parametrize(
    ('states', 'number', 'state', 'error'),
    [
        ((DONE, DONE), 3, RUNNING, '2 of 3 folds done'),
        ((DONE, WAITING, DONE), None, RUNNING, '2 of 3 folds done'),
        ((DONE, RUNNING, WAITING), None, RUNNING, '1 of 3 folds done'),
        ((WAITING, WAITING), None, WAITING, None),
    ],
)
def test_a_seed_counts_only_when_all_its_folds_are_done(states, number, state, error):
    pooled = pool_folds('kd', [record(*one) for one in enumerate(states)], number)
    assert (pooled.state, pooled.error, dict(pooled.measured)) == (state, error, {})


def test_failure_of_a_fold_is_named():
    parts = [record(0, names='a'), record(1, FAILED, 'Traceback\nValueError: no disk')]
    pooled = pool_folds('kd', parts)
    assert pooled.state == FAILED
    assert 'Traceback' in pooled.error
    last = pooled.error.splitlines()[-1]
    assert last == '1 of 2 folds done, kd/fold_1 failed: ValueError: no disk'


def test_checkpoint_that_one_fold_lacks_is_left_out():
    parts = [record(0, names='a'), record(1, names='b', checkpoints=['last'])]
    assert list(pool_folds('kd', parts).measured) == ['last']


def test_case_that_is_tested_twice_raises():
    with pytest.raises(ValueError, match="folds of kd, seed 3: .* got 'b' in two"):
        pool_folds('kd', [record(0, names='ab'), record(1, names='bc')])
