from collections import Counter

import pytest
import sqlalchemy as sa

from mmkdml.experiments import SuiteStore
from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.store import RunGroup
from mmkdml.experiments.suites.store.rows import RunRow
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

STATES = {'a': DONE, 'b': RUNNING, 'c': WAITING, 'd': FAILED}


@pytest.fixture
def store(tmp_path):
    """Runs in all states, with students of all of them."""
    runs = [RunSpec(name, seed, 'c') for seed in (0, 1) for name in 'dcba']
    runs += [RunSpec(f'of_{name}', 1, 'c', teacher=name) for name in ('a', 'b', 'c', 'd', 'gone')]
    store = SuiteStore.in_folder(tmp_path)
    store.register(runs, {run.name: f'settings of {run.name}' for run in runs})
    with store.engine.begin() as connection:
        for name, state in STATES.items():
            worker = 'w' if state == RUNNING else None
            row = sa.update(RunRow).where(RunRow.name == name)
            connection.execute(row.values(state=state, worker=worker))
        times = sa.update(RunRow).where(RunRow.name == 'a')
        connection.execute(times.values(seconds=2.5 + RunRow.seed))
    return store


def test_counts_are_those_of_all_states(store):
    assert store.counts() == Counter(run.state for run in store.states())
    assert store.counts()['unknown'] == 0


def test_groups_add_up_the_durations_of_their_runs(store):
    groups = {group.name: group for group in store.groups()}
    assert groups['a'] == RunGroup('a', DONE, 2, 2, 6.0)
    assert groups['b'] == RunGroup('b', RUNNING, 2, 0, 0.0)
    assert sum(group.runs for group in groups.values()) == len(store.states())


def test_infinite_durations_of_a_damaged_database_are_refused(store):
    with store.engine.begin() as connection:
        connection.execute(sa.update(RunRow).values(seconds=float('inf')))
    with pytest.raises(ValueError, match=r'(?s)Invalid row in .*seconds.*finite'):
        store.groups()


def test_some_rows_are_read_by_key(store):
    assert store.states_of([('a', 0), ('d', 1), ('a', 7)]) == {('a', 0): DONE, ('d', 1): FAILED}
    assert store.states_of([]) == {}
    assert store.settings_of('b') == 'settings of b'
    assert store.settings_of('x') is None
    assert store.running_workers() == ['w', 'w']
    assert {name for name, _ in store.unfinished()} == {
        'b', 'c', *(f'of_{name}' for name in ('a', 'b', 'c', 'd', 'gone'))
    }  # fmt: skip
    assert store.unfinished([('a', 0), ('b', 1)]) == [('b', 1)]


@pytest.mark.parametrize('size', [1, 2, 3, 100])
def test_pages_have_each_claimable_run_once_in_order(store, monkeypatch, size):
    monkeypatch.setattr('mmkdml.experiments.suites.store.states._PAGE', size)
    pages = list(store.claimable())
    assert all(len(page) <= size for page in pages)
    by_key = {run.key: run for run in store.states()}
    found = [run for page in pages for run in page]
    # Students of "b" and "c" wait; those of a failed or missing teacher are decided on.
    names = [*'cbcb', 'of_a', 'of_d', 'of_gone']
    assert [run.name for run in found] == names
    assert found == [by_key[run.key] for run in found]
    some = [run for page in store.claimable([('c', 1), ('a', 0), ('of_b', 1)]) for run in page]
    assert [run.key for run in some] == ['c/seed_1']


def test_run_claimed_between_pages_is_neither_repeated_nor_hides_another(store, monkeypatch):
    monkeypatch.setattr('mmkdml.experiments.suites.store.states._PAGE', 1)
    keys = []
    for (run,) in (page for page in store.claimable() if page):
        keys.append(run.key)
        if run.state == WAITING:
            assert store.claim(run, 'w', 0.0)
            assert store.finish(run, 'w', b'', 1.0)
    assert keys == [
        'c/seed_0', 'b/seed_0', 'c/seed_1', 'b/seed_1', 'of_a/seed_1', 'of_c/seed_1', 'of_d/seed_1',
        'of_gone/seed_1',
    ]  # fmt: skip
