import random
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.execution import run_queue
from mmkdml.experiments.suites.execution.run_queue import GRACE_SECONDS, RunQueue
from mmkdml.experiments.suites.fold_runs import fold_runs
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.store.rows import RunRow
from mmkdml.experiments.suites.suite import Suite
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

PLAIN = (None, {})


@pytest.fixture
def clock(monkeypatch):
    """Time that a test sets, as a list of one number."""
    now = [0.0]
    fake = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(run_queue, 'time', fake)
    return now


def expected(queue, suite, states):
    """Apply the rules to the states of all runs: the claimed run, and the blocked ones."""
    specs = {(run.name, run.seed): run for run in suite.runs}
    by_key = {(run.name, run.seed): run for run in states}
    blocked = []
    for key, run in by_key.items():
        if key not in specs or run.state not in (WAITING, RUNNING):
            continue
        teachers = [by_key.get((name, run.seed)) for name in specs[key].teachers]
        teachers = [one for one in teachers if one is not None]
        if run.state == RUNNING:
            if run.worker == 'lost':
                return run.key, blocked
        elif any(one.state == FAILED for one in teachers):
            blocked.append(run.key)
        elif all(one.state == DONE and (suite.work_dir / one.key).is_dir() for one in teachers):
            return run.key, blocked
    return None, blocked


@pytest.mark.parametrize('seed', range(8))
def test_choice_equals_that_of_rules_applied_to_all_rows(tmp_path, monkeypatch, seed):
    """Random states of a suite with folds, in a database with runs of others, on many pages."""
    monkeypatch.setattr('mmkdml.experiments.suites.store.states._PAGE', 1 + seed % 4)
    monkeypatch.setattr(run_queue, '_FEW', 1000 * (seed // 4))
    monkeypatch.setattr(run_queue, 'is_dead', lambda worker: worker == 'lost')
    rng = random.Random(seed)
    runs = [
        RunSpec('big', 0, 'c'),
        RunSpec('small', 0, 'c'),
        RunSpec('out', 0, 'c', teacher='big'),
        RunSpec('same', 0, 'c', teacher='small'),
        RunSpec('deep', 0, 'c', teacher='same'),
    ]
    runs = [replace(run, seed=one) for one in (0, 1) for run in fold_runs(runs, 3, ['out'])]
    store = SuiteStore.in_folder(tmp_path)
    store.register(runs, {run.name: '' for run in runs})
    own = [run for run in runs if rng.random() < 0.9]
    suite = Suite('s', 's.py', 'T', ('IoU',), (), tuple(own), tmp_path)
    weights = [(1, 1, 1, 1), (6, 1, 1, 1), (0, 1, 8, 0), (2, 3, 2, 0)][seed % 4]
    with store.engine.begin() as connection:
        for run in runs:
            state = rng.choices((WAITING, RUNNING, DONE, FAILED), weights)[0]
            worker = rng.choice(('lost', 'elsewhere#1.1')) if state == RUNNING else None
            row = sa.update(RunRow).where(RunRow.name == run.name, RunRow.seed == run.seed)
            connection.execute(row.values(state=state, worker=worker))
            if state == DONE and rng.random() < 0.8:
                (tmp_path / run.key).mkdir(parents=True)
    queue = RunQueue(suite, store, 'me')
    for _ in range(len(runs)):
        states = store.states()
        key, blocked = expected(queue, suite, states)
        run, marked = queue.claim_next()
        assert (run and run.key) == key
        marked = [one.key for one, _ in marked]
        assert set(blocked) <= set(marked)
        # A student of a run that was marked on an earlier page is marked, too.
        failed = {one.key for one in store.states() if one.state == FAILED}
        assert set(marked) <= failed - {one.key for one in states if one.state == FAILED}
        mine = [one for one in states if (one.name, one.seed) in queue.specs]
        assert queue.has_unfinished_runs() or key is None
        if key is None and not marked:
            assert queue.has_unfinished_runs() == any(
                one.state in (WAITING, RUNNING) for one in mine
            )
            break
        if run is not None:
            (tmp_path / run.key).mkdir(parents=True, exist_ok=True)
            assert store.finish(run, 'me', b'', 1.0)
    else:
        pytest.fail('more claims than runs')


def test_run_that_another_worker_claims_first_is_passed_over(make_suite, monkeypatch):
    suite, store = make_suite({'a': PLAIN, 'b': PLAIN})
    claim = SuiteStore.claim

    def claim_after_another(self, run, worker, now):
        if run.name == 'a':
            assert claim(self, run, 'elsewhere#1.1', now)
        return claim(self, run, worker, now)

    monkeypatch.setattr(SuiteStore, 'claim', claim_after_another)
    run, _ = RunQueue(suite, store, 'me').claim_next()
    assert run.key == 'b/seed_0'
    assert [one.worker for one in store.states()] == ['elsewhere#1.1', 'me']


def test_run_of_another_machine_is_claimed_after_the_grace_period(make_suite, clock):
    suite, store = make_suite({'run': PLAIN})
    store.claim(store.states()[0], 'elsewhere#1.1', 0.0)
    queue = RunQueue(suite, store, 'me')
    step = GRACE_SECONDS / 4
    for _ in range(8):  # heartbeats over more than the grace period
        assert queue.claim_next() == (None, [])
        clock[0] += step
        assert store.record_heartbeat(store.states()[0], 'elsewhere#1.1')
    for _ in range(5):
        assert queue.claim_next() == (None, [])
        clock[0] += step
    run, _ = queue.claim_next()
    assert run.key == 'run/seed_0'
    assert store.states()[0].worker == 'me'


def test_after_an_outage_others_have_time_for_a_heartbeat(make_suite, clock):
    suite, store = make_suite({'run': PLAIN})
    store.claim(store.states()[0], 'elsewhere#1.1', 0.0)
    queue = RunQueue(suite, store, 'me')
    assert queue.claim_next()[0] is None
    clock[0] += 10 * GRACE_SECONDS  # nobody could reach the database
    assert queue.claim_next()[0] is None
    for _ in range(5):
        clock[0] += GRACE_SECONDS / 4
        found, _ = queue.claim_next()
    assert found is not None


def test_runs_of_this_process_are_not_those_of_others(make_suite):
    suite, store = make_suite({'a': PLAIN, 'b': PLAIN})
    queue = RunQueue(suite, store, 'me')
    assert not queue.others_run()
    own = f'{run_queue.this_host()}#{run_queue.os.getpid()}.1'
    store.claim(store.states()[0], own, 0.0)
    assert not queue.others_run()
    store.claim(store.states()[1], 'elsewhere#1.1', 0.0)
    assert queue.others_run()
