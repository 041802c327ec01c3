import pytest

from mmkdml.experiments import in_words, progress
from mmkdml.experiments.suites.store import RunState
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING


def run(name, state, seconds=None, seed=0):
    return RunState(name, seed, None, state, None, 0, None, seconds, None)


@pytest.mark.parametrize(
    ('seconds', 'words'),
    [
        (0.4, '0 s'),
        (59.6, '1 min 0 s'),
        (200, '3 min 20 s'),
        (3600, '1 h 0 min'),
        (7505, '2 h 5 min'),
    ],
)
def test_durations(seconds, words):
    assert in_words(seconds) == words


def test_time_left_is_from_the_same_run_where_it_is_known():
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


def test_without_anything_done_nothing_is_promised():
    assert progress([run('a', WAITING), run('b', FAILED)]) == '0 of 2 done, 1 failed'
    assert progress([run('a', DONE, 3)]) == '1 of 1 done'
    assert progress([]) == '0 of 0 done'
