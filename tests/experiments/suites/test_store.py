import os
import resource
import sqlite3
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateTable

from mmkdml.experiments import SuiteStore
from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.store import BLOCKED, DATABASE
from mmkdml.experiments.suites.store.rows import Base
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


def test_registered_runs_are_waiting_in_order(store):
    states = store.states()
    assert [run.key for run in states] == ['teacher/seed_0', 'student/seed_0', 'teacher/seed_1']
    assert [run.teacher for run in states] == [None, 'teacher', None]
    assert {run.state for run in states} == {WAITING}
    assert store.settings() == SETTINGS


def test_registering_again_adds_only_new_runs(store):
    assert store.register(RUNS, SETTINGS) == 0
    assert store.register([*RUNS, RunSpec('new', 0, 'c')], {**SETTINGS, 'new': ''}) == 1
    assert len(store.states()) == 4


def test_runs_that_two_workers_register_at_the_same_time_are_added_once(tmp_path):
    store, other = (SuiteStore.in_folder(tmp_path) for _ in range(2))
    added = []
    event.listen(
        Session, 'before_flush', lambda *_: added.append(other.register(RUNS, SETTINGS)), once=True
    )
    assert store.register(RUNS, SETTINGS) == 0
    assert added == [3]
    assert len(store.states()) == 3


def test_other_settings_raise_with_the_difference(store):
    changed = {**SETTINGS, 'teacher': 'one: 1\ntwo: 3\n'}
    with pytest.raises(ValueError, match=r'(?s)teacher/seed_0 .*suite\.db.*two: 2 -> 3\n'):
        store.register([*RUNS, RunSpec('new', 0, 'c')], {**changed, 'new': ''})
    assert len(store.states()) == 3  # nothing added


def test_data_hashes_are_compared_and_added_to_older_rows(tmp_path):
    store = SuiteStore.in_folder(tmp_path)
    run, before = RUNS[:1], {'teacher': '{\n"model": {"mode": "kdml"}\n}'}
    store.register(run, before)
    for digest, stored in (('null', before['teacher']), ('"aa"', None)):
        now = before['teacher'].replace('\n}', f', "data": {{"train": {digest}}}\n}}')
        assert store.register(run, {'teacher': now}) == 0
        assert store.settings()['teacher'] == (stored or now)
    with pytest.raises(ValueError, match=r'data\.train: .aa. -> .bb.'):
        store.register(run, {'teacher': now.replace('aa', 'bb')})
    assert (
        store.register(run, {'teacher': now.replace('"aa"', 'null')}) == 0
    )  # the data were moved away
    assert store.settings()['teacher'] == now


def test_run_is_claimed_once(store):
    run = first(store)
    assert store.claim(run, 'a', 10.0)
    assert not store.claim(run, 'b', 11.0)
    claimed = first(store)
    assert (claimed.state, claimed.worker, claimed.started) == (RUNNING, 'a', 10.0)


def test_concurrent_workers_never_claim_the_same_run(tmp_path):
    runs = [RunSpec(f'r{i}', 0, 'c') for i in range(30)]
    store = SuiteStore.in_folder(tmp_path)
    store.register(runs, {run.name: '' for run in runs})
    claimed, start = [], threading.Barrier(4)

    def work(worker):
        own = SuiteStore.in_folder(tmp_path)
        start.wait(300)
        for run in own.states():
            if run.state == WAITING and own.claim(run, worker, 0.0):
                claimed.append(run.name)

    threads = [threading.Thread(target=work, args=(f'w{i}',)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(run.name for run in runs)


def test_worker_of_a_run_claimed_by_another_cannot_change_it(store):
    store.claim(first(store), 'a', 0.0)
    lost = first(store)
    assert store.claim(lost, 'b', 5.0)
    assert not store.record_heartbeat(lost, 'a')
    assert not store.finish(lost, 'a', b'x', 1.0)
    assert not store.fail(lost, 'a', 'x')
    assert not store.release(lost, 'a')
    assert store.record_heartbeat(lost, 'b')
    assert store.finish(lost, 'b', b'result', 2.5)
    assert list(store.results()) == [('teacher', 0, b'result')]
    done = first(store)
    assert (done.state, done.seconds, done.error) == (DONE, 2.5, None)


def test_run_with_a_new_heartbeat_is_not_claimed(store):
    store.claim(first(store), 'a', 0.0)
    seen = first(store)
    store.record_heartbeat(seen, 'a')
    assert not store.claim(seen, 'b', 0.0)


def test_failed_runs_can_be_retried(store):
    store.claim(first(store), 'a', 0.0)
    store.fail(first(store), 'a', 'no space')
    assert (first(store).state, first(store).error) == (FAILED, 'no space')
    assert not store.mark_blocked(first(store), 'x')  # only a waiting run
    assert store.mark_blocked(store.states()[1], 'its teacher failed')
    assert store.retry_failed() == 2
    assert {(run.state, run.error) for run in store.states()} == {(WAITING, None)}


def test_released_run_is_waiting(store):
    store.claim(first(store), 'a', 0.0)
    assert store.release(first(store), 'a')
    assert (first(store).state, first(store).worker) == (WAITING, None)


def test_folder_without_database_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'No suite\.db in '):
        SuiteStore.in_folder(tmp_path, create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('content', [b'not a database at all, but long enough' * 50, None])
def test_corrupt_database_raises(store, tmp_path, content):
    path = tmp_path / DATABASE
    store.engine.dispose()
    valid = path.read_bytes()
    # In the second case the header is valid and the pages are not.
    path.write_bytes(content or valid[:100] + os.urandom(len(valid) - 100))
    with pytest.raises(ValueError, match=r'suite\.db: .*\. Move the file away'):
        SuiteStore.in_folder(tmp_path).states()


def test_locked_database_raises(store, tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as other:
        other.execute('BEGIN EXCLUSIVE')
        with pytest.raises(ValueError, match=r'suite\.db: .*locked'):
            SuiteStore(f'sqlite:///{tmp_path / DATABASE}', lock_seconds=0.1).states()


def test_database_locked_for_writing_raises(store, tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as other:
        other.execute('BEGIN IMMEDIATE')
        reader = SuiteStore(f'sqlite:///{tmp_path / DATABASE}', lock_seconds=0.1)
        with pytest.raises(ValueError, match=r'suite\.db: .*locked'):
            reader.register([RunSpec('new', 0, 'c')], {'new': ''})


def test_full_disk_leaves_the_run_unfinished(store):
    store.claim(first(store), 'a', 0.0)
    run = first(store)
    store.engine.dispose()

    @event.listens_for(store.engine, 'connect')
    def no_space_beyond_what_is_used(connection, _):
        pages = connection.execute('PRAGMA page_count').fetchone()[0]
        connection.execute(f'PRAGMA max_page_count = {pages}')

    with pytest.raises(ValueError, match=r'suite\.db: .*full'):
        store.finish(run, 'a', b'x' * 1_000_000, 1.0)
    assert first(store).state == RUNNING
    assert list(store.results()) == []


def test_limit_on_file_size_keeps_the_database_intact(store):
    """SQLite reports an I/O error, as with a quota; the advice is not to move the file away."""
    store.claim(first(store), 'a', 0.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(ValueError, match=r'I/O error\. Resume when disk, quota'):
            store.finish(first(store), 'a', b'x' * 1_000_000, 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert first(store).state == RUNNING
    assert store.finish(first(store), 'a', b'x' * 1_000_000, 1.0)


def test_url_of_missing_driver_raises():
    with pytest.raises(ValueError, match=r'postgresql\+nodriver://x/y: .*nodriver'):
        SuiteStore('postgresql+nodriver://x/y')


def test_change_whose_confirmation_was_lost_is_repeated(store):
    store.claim(first(store), 'a', 0.0)
    run = first(store)
    for _ in range(2):
        assert store.finish(run, 'a', b'result', 2.5)
    assert not store.finish(run, 'b', b'other', 1.0)
    assert list(store.results()) == [('teacher', 0, b'result')]
    other = store.states()[2]
    store.claim(other, 'a', 0.0)
    for _ in range(2):
        assert store.fail(other, 'a', 'x')
    assert not store.fail(other, 'b', 'x')


def test_transient_errors_are_retried(store, outage):
    faults = outage(store)
    store.database.log = lambda line: (faults.lines.append(line), setattr(faults, 'is_on', False))
    faults.is_on = True
    assert len(store.states()) == 3
    assert 'locked' in faults.lines[0]
    faults.is_on = True
    with pytest.raises(ValueError, match='locked'):
        store.states(retry=False)


def test_two_suites_in_one_database_are_refused(store):
    for _ in range(2):
        store.register(RUNS, SETTINGS, 'mine')
    store.check_suite('mine', RUNS)
    other = [RunSpec('another', 0, 'c')]
    for call in (
        lambda: store.check_suite('yours', other),
        lambda: store.register(other, {'another': ''}, 'yours'),
    ):
        with pytest.raises(ValueError, match=r'yours, got one with mine.*--work-dir.*--storage'):
            call()
    assert len(store.states()) == 3


def test_suite_whose_workers_start_at_the_same_time_is_added_once(tmp_path):
    store, other = (SuiteStore.in_folder(tmp_path) for _ in range(2))
    added = []
    event.listen(
        Session,
        'before_flush',
        lambda *_: added.append(other.register(RUNS, SETTINGS, 'mine')),
        once=True,
    )
    assert store.register(RUNS, SETTINGS, 'mine') == 0
    assert added == [3]
    store.check_suite('mine', [RunSpec('another', 0, 'c')])


def test_suite_continues_runs_that_it_shares_with_another(store):
    store.register(RUNS, SETTINGS, 'mine')
    more = [*RUNS, RunSpec('another', 0, 'c')]
    assert store.register(more, {**SETTINGS, 'another': ''}, 'yours') == 1
    with pytest.raises(ValueError, match='student'):
        store.register(RUNS, {**SETTINGS, 'student': 'three: 4\n'}, 'yours')


def test_database_of_an_earlier_version_is_used(store):
    """It has no name of its suite."""
    other = [RunSpec('another', 0, 'c')]
    with pytest.raises(ValueError, match=r'got one with the runs student, teacher'):
        store.check_suite('yours', other)
    store.check_suite('mine', [*RUNS, *other])  # runs may be added
    assert not sa.inspect(store.engine).has_table('suites')  # it may be read-only
    assert store.register([*RUNS, *other], {**SETTINGS, 'another': ''}, 'mine') == 1
    store.check_suite('mine', other)


def test_only_own_runs_are_retried(store):
    for run in store.states():
        store.mark_blocked(run, 'x')
    assert store.retry_failed(RUNS[:1]) == 1
    assert [run.state for run in store.states()] == [WAITING, FAILED, FAILED]


def test_runs_are_released_with_those_that_need_them(store):
    teacher, student, other = store.states()
    store.claim(teacher, 'a', 0.0)
    store.fail(teacher, 'a', 'no GPU')
    store.mark_blocked(student, f'{BLOCKED}teacher/seed_0 failed')
    store.mark_blocked(other, 'something else')
    store.release_failed([teacher], 'another worker')
    assert first(store).state == FAILED
    store.release_failed([teacher], 'a')
    assert [run.state for run in store.states()] == [WAITING, WAITING, FAILED]
    assert first(store).error == 'no GPU'
    store.claim(first(store), 'b', 0.0)
    assert first(store).error is None


def test_errors_fit_in_every_database(store):
    store.claim(first(store), 'a', 0.0)
    store.fail(first(store), 'a', 'x' * 100_000 + '\0end')
    assert first(store).error.endswith('xend')
    assert len(first(store).error.encode()) * 4 < 1 << 16  # TEXT of MySQL, in utf8mb4


def test_result_larger_than_a_packet_of_mysql_is_reported(store, monkeypatch):
    run = first(store)
    assert store.size_error(run, b'x' * 100_000) is None
    monkeypatch.setattr(store.engine.dialect, 'name', 'mysql')
    monkeypatch.setattr(store, '_transaction', lambda *_: 16384)
    assert store.size_error(run, b'x' * 14_000) is None
    assert 'max_allowed_packet' in store.size_error(run, b'x' * 17_000)
    assert 'max_allowed_packet' in store.size_error(run, b'"' * 8_000)  # escaped


@pytest.mark.parametrize('dialect', [mysql.dialect(), MariaDBDialect()])
def test_mysql_distinguishes_names_by_case(dialect):
    names = {'runs': {'name', 'teacher'}, 'suites': {'name'}, 'summaries': {'part', 'name'}}
    assert Base.metadata.tables.keys() == names.keys()
    for table in Base.metadata.sorted_tables:
        lines = str(CreateTable(table).compile(dialect=dialect)).splitlines()
        binary = {line.split()[0] for line in lines if 'COLLATE utf8mb4_bin' in line}
        assert binary == names[table.name]
        for other in (sqlite.dialect(), postgresql.dialect()):
            assert 'COLLATE' not in str(CreateTable(table).compile(dialect=other))


def test_names_that_differ_in_case_are_different_runs(store):
    runs = [RunSpec(name, 0, 'c') for name in ('KD', 'kd')]
    assert store.register(runs, {'KD': 'a: 1\n', 'kd': 'a: 2\n'}) == 2
    assert store.settings_of('KD') == 'a: 1\n'


def test_names_that_differ_in_case_are_refused_by_an_older_mysql(store, monkeypatch):
    monkeypatch.setattr(store.engine.dialect, 'name', 'mysql')
    collations = ['utf8mb4_general_ci', 'utf8mb4_bin']
    monkeypatch.setattr(store, '_transaction', lambda *_: collations.pop(0))
    with pytest.raises(ValueError, match=r'got KD, kd\. .*suite\.db.*--storage'):
        store._check_case(['kd', 'a', 'KD'])
    store._check_case(['kd', 'KD'])
    store._check_case(['kd', 'a'])  # does not use the database
    assert collations == []


def test_password_is_not_in_messages():
    with pytest.raises(ValueError, match=r'u:\*\*\*@x/y') as raised:
        SuiteStore('postgresql+nodriver://u:s3cret@x/y')
    assert 's3cret' not in str(raised.value)
