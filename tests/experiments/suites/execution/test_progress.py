import time

import pytest
import torch

from mmkdml.experiments import progress
from mmkdml.experiments.suites.execution.progress import seconds_left, state_table, work_left
from mmkdml.experiments.suites.store import RunGroup, RunState
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING


def run(name, state, seconds=None, seed=0):
    return RunState(name, seed, None, state, None, 0, None, seconds, None)


def test_remaining_time_is_estimated_from_other_seeds_of_the_run():
    states = [
        run('fast', DONE, 10),
        run('slow', DONE, 100),
        run('slow', DONE, 140, seed=1),
        run('fast', RUNNING, seed=1),  # 10
        run('slow', RUNNING, seed=2),  # 120
        run('new', WAITING),  # (10 + 120) / 2
    ]
    assert progress(states) == '3 of 6 done, 2 running, about 1 min 38 s left'


def test_idle_workers_share_the_remaining_runs():
    counts = {DONE: 3, RUNNING: 2, WAITING: 1}
    assert seconds_left(195.0, counts) == 97.5
    assert seconds_left(195.0, counts, idle=1) == seconds_left(195.0, counts, idle=5) == 65
    assert seconds_left(195.0, {RUNNING: 0, WAITING: 2}) == 195
    assert seconds_left(None, counts) is None


def test_work_left_counts_each_run_of_a_group():
    groups = [
        RunGroup('fast', DONE, 3, 2, 20.0),  # the duration of one is unknown
        RunGroup('fast', WAITING, 2, 0, 0.0),  # 20
        RunGroup('slow', DONE, 1, 1, 100.0),
        RunGroup('slow', FAILED, 4, 0, 0.0),
        RunGroup('new', RUNNING, 1, 0, 0.0),  # (10 + 100) / 2
    ]
    assert work_left(groups) == pytest.approx(75)


def test_no_estimate_without_finished_or_remaining_runs():
    assert progress([run('a', WAITING), run('b', FAILED)]) == '0 of 2 done, 1 failed'
    assert progress([run('a', DONE, 3)]) == '1 of 1 done'
    assert progress([]) == '0 of 0 done'


def test_remaining_time_of_folds_is_that_of_other_folds_of_the_run():
    states = [
        run('hot/big/fold_0', DONE, 10),
        run('hot/big/fold_0_1', DONE, 20),
        run('kd/fold_0', DONE, 100),
        run('kd/fold_1', RUNNING),  # 100
        run('hot/big/fold_12', WAITING),  # 15
    ]
    assert progress(states) == '3 of 5 done, 1 running, about 1 min 55 s left'


def test_table_lists_state_time_and_error_or_checkpoint(tmp_path):
    (tmp_path / 'b/seed_0').mkdir(parents=True)
    torch.save({}, tmp_path / 'b/seed_0/epoch_3.pth')
    states = [
        run('a', DONE, 61.0),
        RunState('b', 0, None, RUNNING, 'w', 0, time.time() - 120, None, None),
        RunState('c', 1, None, FAILED, 'w', 0, 0.0, None, 'Traceback\nno GPU'),
        run('d', WAITING),
    ]
    lines = [line for line in state_table(states, tmp_path).splitlines() if '|' in line]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[1:]]
    assert cells[0] == ['a', '0', DONE, '1 min 1 s', '']
    assert cells[1][3].startswith('2 min')
    assert cells[1][4] == 'epoch_3 saved'
    assert cells[2:] == [['c', '1', FAILED, '', 'no GPU'], ['d', '0', WAITING, '', '']]
