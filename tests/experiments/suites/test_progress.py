from mmkdml.experiments import progress
from mmkdml.experiments.suites.store import RunState
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
    assert progress(states, idle=1) == '3 of 6 done, 2 running, about 1 min 5 s left'


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
