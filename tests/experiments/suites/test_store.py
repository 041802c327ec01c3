import os
import resource
import sqlite3
import threading

import pytest
from sqlalchemy import event

from mmkdml.experiments import SuiteStore
from mmkdml.experiments.suites.store import DATABASE
from mmkdml.experiments.suites.suite import RunSpec
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

RUNS = [
    RunSpec('teacher', 0, 'c'),
    RunSpec('student', 0, 'c', {}, 'teacher'),
    RunSpec('teacher', 1, 'c'),
]
SETTINGS = {'teacher': 'one: 1\ntwo: 2\n', 'student': 'three: 3\n'}


@pytest.fixture
def store(tmp_path):
    store = SuiteStore.in_folder(tmp_path)
    assert store.register(RUNS, SETTINGS) == 3
    return store


def first(store):
    return store.states()[0]


def test_registered_runs_wait_in_order(store):
    states = store.states()
    assert [run.key for run in states] == ['teacher/seed_0', 'student/seed_0', 'teacher/seed_1']
    assert [run.teacher for run in states] == [None, 'teacher', None]
    assert {run.state for run in states} == {WAITING}
    assert store.settings() == SETTINGS


def test_registering_again_adds_what_is_new(store):
    assert store.register(RUNS, SETTINGS) == 0
    assert store.register([*RUNS, RunSpec('new', 0, 'c')], {**SETTINGS, 'new': ''}) == 1
    assert len(store.states()) == 4


def test_other_settings_are_refused_with_the_difference(store):
    changed = {**SETTINGS, 'teacher': 'one: 1\ntwo: 3\n'}
    with pytest.raises(ValueError, match=r'(?s)teacher/seed_0 was started with other settings.*'
                       r'two: 2 -> 3\nUndo the change, or .* --work-dir'):  # fmt: skip
        store.register([*RUNS, RunSpec('new', 0, 'c')], {**changed, 'new': ''})
    assert len(store.states()) == 3  # nothing added


def test_data_are_among_the_settings_and_added_to_older_rows(tmp_path):
    store = SuiteStore.in_folder(tmp_path)
    run, before = RUNS[:1], {'teacher': '{\n"model": {"mode": "kdml"}\n}'}
    store.register(run, before)
    for digest, stored in (('null', before['teacher']), ('"aa"', None)):
        now = before['teacher'].replace('\n}', f', "data": {{"train": {digest}}}\n}}')
        assert store.register(run, {'teacher': now}) == 0
        assert store.settings()['teacher'] == (stored or now)
    with pytest.raises(ValueError, match=r'data\.train: .aa. -> .bb.'):
        store.register(run, {'teacher': now.replace('aa', 'bb')})
    assert store.register(run, {'teacher': now.replace('"aa"', 'null')}) == 0  # moved away
    assert store.settings()['teacher'] == now


def test_a_run_is_taken_once(store):
    run = first(store)
    assert store.take(run, 'a', 10.0)
    assert not store.take(run, 'b', 11.0)
    taken = first(store)
    assert (taken.state, taken.worker, taken.started) == (RUNNING, 'a', 10.0)


def test_many_workers_never_take_the_same(tmp_path):
    runs = [RunSpec(f'r{i}', 0, 'c') for i in range(30)]
    store = SuiteStore.in_folder(tmp_path)
    store.register(runs, {run.name: '' for run in runs})
    taken, start = [], threading.Barrier(4)

    def work(worker):
        mine = SuiteStore.in_folder(tmp_path)
        start.wait(300)
        for run in mine.states():
            if run.state == WAITING and mine.take(run, worker, 0.0):
                taken.append(run.name)

    threads = [threading.Thread(target=work, args=(f'w{i}',)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(run.name for run in runs)


def test_a_lost_run_is_taken_over_and_its_worker_can_do_no_more(store):
    store.take(first(store), 'a', 0.0)
    lost = first(store)
    assert store.take(lost, 'b', 5.0)
    assert not store.beat(lost, 'a')
    assert not store.finish(lost, 'a', b'x', 1.0)
    assert not store.fail(lost, 'a', 'x')
    assert not store.give_back(lost, 'a')
    assert store.beat(lost, 'b')
    assert store.finish(lost, 'b', b'result', 2.5)
    assert list(store.results()) == [('teacher', 0, b'result')]
    done = first(store)
    assert (done.state, done.seconds, done.error) == (DONE, 2.5, None)


def test_a_worker_that_still_beats_is_not_robbed(store):
    store.take(first(store), 'a', 0.0)
    seen = first(store)
    store.beat(seen, 'a')
    assert not store.take(seen, 'b', 0.0)


def test_failed_runs_are_kept_and_can_wait_again(store):
    store.take(first(store), 'a', 0.0)
    store.fail(first(store), 'a', 'no space')
    assert (first(store).state, first(store).error) == (FAILED, 'no space')
    assert not store.block(first(store), 'x')  # only what waits
    assert store.block(store.states()[1], 'its teacher failed')
    assert store.retry_failed() == 2
    assert {(run.state, run.error, run.worker) for run in store.states()} == {(WAITING, None, None)}


def test_what_is_given_back_waits(store):
    store.take(first(store), 'a', 0.0)
    assert store.give_back(first(store), 'a')
    assert (first(store).state, first(store).worker) == (WAITING, None)


def test_a_folder_without_a_database(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'holds no suite\.db: the suite was not started'):
        SuiteStore.in_folder(tmp_path, create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('content', [b'not a database at all, but long enough' * 50, None])
def test_a_corrupt_database(store, tmp_path, content):
    path = tmp_path / DATABASE
    store.engine.dispose()
    whole = path.read_bytes()
    # In the second case the header is whole and a page behind it is not.
    path.write_bytes(content or whole[:100] + os.urandom(len(whole) - 100))
    with pytest.raises(ValueError, match=r'suite\.db cannot be used \(.*\): move the file away'):
        SuiteStore.in_folder(tmp_path).states()


def test_a_locked_database(store, tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as other:
        other.execute('BEGIN EXCLUSIVE')
        with pytest.raises(ValueError, match=r'locked\): another program holds it; close'):
            SuiteStore(f'sqlite:///{tmp_path / DATABASE}', lock_seconds=0.1).states()


def test_a_full_disk(store):
    store.take(first(store), 'a', 0.0)
    run = first(store)
    store.engine.dispose()

    @event.listens_for(store.engine, 'connect')
    def no_space_beyond_what_is_used(connection, _):
        pages = connection.execute('PRAGMA page_count').fetchone()[0]
        connection.execute(f'PRAGMA max_page_count = {pages}')

    with pytest.raises(ValueError, match=r'full\): free some space and resume; what was finished'):
        store.finish(run, 'a', b'x' * 1_000_000, 1.0)
    assert first(store).state == RUNNING  # nothing half-written is ever read as finished
    assert list(store.results()) == []


def test_a_limit_on_the_size_of_files(store):
    """As a quota: what is in the file is whole, and nobody is to move it away."""
    store.take(first(store), 'a', 0.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(ValueError, match=r'I/O error\): resume when disk, quota and limits'):
            store.finish(first(store), 'a', b'x' * 1_000_000, 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert first(store).state == RUNNING
    assert store.finish(first(store), 'a', b'x' * 1_000_000, 1.0)


def test_a_url_of_no_database():
    with pytest.raises(ValueError, match='cannot be used .*: check the URL, the driver'):
        SuiteStore('postgresql+nodriver://x/y')
