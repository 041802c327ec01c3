"""Suites whose database server restarts, crashes, hangs or refuses; PostgreSQL and MariaDB."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from mariadb import MariaDB
from postgresql import PASSWORD, PostgreSQL
from suite_worker import HOLD

from mmkdml.experiments import RunSpec, Suite, SuiteStore
from mmkdml.experiments.suites.execution.run_queue import RunQueue
from mmkdml.statistics.records import DONE, WAITING

SCRIPT = Path(__file__).with_name('suite_worker.py')
PACKAGES = {PostgreSQL: 'postgresql', MariaDB: 'mariadb-server'}
DRIVERS = {PostgreSQL: 'psycopg', MariaDB: 'pymysql'}


@pytest.fixture(scope='session', params=[PostgreSQL, MariaDB], ids=['postgresql', 'mariadb'])
def server(request):
    kind = request.param
    if not kind.is_installed():
        pytest.skip(f'no server: apt-get install {PACKAGES[kind]}')
    pytest.importorskip(DRIVERS[kind])
    # The path of a socket is short, and readable for the user of the server.
    with tempfile.TemporaryDirectory(prefix='mmkdml') as folder:
        server = kind(Path(folder) / 'server')
        yield server
        server.stop()


class Workers:
    """Workers of a suite in one folder and database, with their outputs."""

    def __init__(self, folder, url):
        self.folder, self.url, self.processes = folder, url, []

    def start(self, url=None, **options):
        command = [sys.executable, SCRIPT, url or self.url, self.folder, json.dumps(options)]
        with self.folder.joinpath(f'{len(self.processes)}.txt').open('w') as output:
            process = subprocess.Popen(
                [*map(str, command)], stdout=output, stderr=output,
                env={**os.environ, 'PYTHONPATH': str(SCRIPT.parents[2])},
            )  # fmt: skip
        self.processes.append(process)
        process.output = Path(output.name)
        return process

    def executions(self, run='a'):
        path = self.folder / run / 'seed_0' / 'executed'
        return len(path.read_text().split()) if path.exists() else 0

    def states(self):
        store = SuiteStore(self.url)
        states = [run.state for run in store.states()]
        store.engine.dispose()
        return states


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def workers(server, tmp_path, request):
    found = Workers(tmp_path, server.create(f'suite_{abs(hash(request.node.name)) % 10**9}'))
    (tmp_path / HOLD).touch()
    yield found
    server.resume()
    for process in found.processes:
        process.kill()
        process.wait()
        assert PASSWORD not in process.output.read_text()
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert not any(PASSWORD.encode() in path.read_bytes() for path in files)


def release(workers):
    (workers.folder / HOLD).unlink()


@pytest.mark.parametrize('fault', ['restart', 'crash'])
def test_run_that_ends_while_the_server_is_down_is_recorded(server, workers, fault):
    process = workers.start()
    wait_for(workers.executions)
    getattr(server, 'stop' if fault == 'restart' else 'kill')()
    wait_for(lambda: 'is unavailable' in process.output.read_text())
    release(workers)
    wait_for((workers.folder / 'a/seed_0/result.json.gz').exists)
    server.start()
    assert process.wait(300) == 0
    assert workers.states() == ['done', 'done']
    assert [workers.executions(run) for run in 'ab'] == [1, 1]
    assert 'is back' in process.output.read_text()


def test_sigterm_ends_a_worker_while_the_server_hangs(server, workers):
    process = workers.start()
    wait_for(workers.executions)
    server.pause()
    time.sleep(3)  # a heartbeat waits for an answer
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert process.output.read_text().endswith('interrupted\n')
    assert (workers.folder / 'a/seed_0/interrupted.pth').exists()
    server.resume()
    release(workers)
    assert workers.start().wait(300) == 0
    assert workers.states() == ['done', 'done']


def test_result_of_a_worker_that_gave_up_is_recorded_by_the_next(server, workers):
    process = workers.start(retry_seconds=4)
    wait_for(workers.executions)
    server.stop()
    release(workers)
    assert process.wait(300) == 1
    assert 'not recorded yet' in process.output.read_text()
    server.start()
    assert workers.states() == ['running', 'waiting']
    assert workers.start().wait(300) == 0
    assert workers.states() == ['done', 'done']
    assert workers.executions() == 1


def test_training_is_interrupted_gently_when_the_worker_gives_up(server, workers):
    process = workers.start(retry_seconds=3)
    wait_for(workers.executions)
    server.stop()
    assert process.wait(300) == 1
    assert 'resume' in process.output.read_text()
    assert (workers.folder / 'a/seed_0/interrupted.pth').exists()
    server.start()


def test_errors_that_do_not_pass_are_raised_at_once(server, workers):
    wrong = [
        server.url('suite', 'wrong-canary'),
        server.url('no_such_database'),
        server.url().replace('127.0.0.1', 'no-such-host.invalid'),
    ]
    for process in [workers.start(url) for url in wrong]:
        assert process.wait(300) == 1
        text = process.output.read_text()
        assert 'Cannot access the database' in text
        assert 'unavailable' not in text
        assert 'canary' not in text


def test_another_suite_is_refused_and_failures_in_a_row_release_runs(server, workers):
    release(workers)
    assert workers.start(runs='abc', fail=True).wait(300) == 1
    assert workers.states() == ['waiting'] * 3
    other = workers.start(runs='xy', name='other')
    assert other.wait(300) == 1
    assert 'got one with suite' in other.output.read_text()
    assert len(workers.states()) == 3


def test_result_larger_than_a_packet_is_recorded_after_an_increase(server, workers):
    if not isinstance(server, MariaDB):
        pytest.skip('PostgreSQL has no such limit')
    engine = sa.create_engine(workers.url)

    def limit(size):
        with engine.connect() as connection:
            connection.execute(sa.text(f'SET GLOBAL max_allowed_packet = {size}'))
        engine.dispose()

    limit(1 << 20)
    release(workers)
    try:
        process = workers.start(runs='a')
        process.wait(300)
        assert workers.states() == ['failed']
        assert 'max_allowed_packet' in process.output.read_text()
    finally:
        limit(1 << 26)
    assert workers.start(runs='a', resume=True).wait(300) == 0
    assert workers.states() == ['done']
    assert workers.executions() == 1


def test_password_of_the_environment_and_of_a_file(server, tmp_path, monkeypatch):
    url = server.create('with_a_file').replace(f':{PASSWORD}', '')
    if isinstance(server, MariaDB):
        file = tmp_path / 'my.cnf'
        file.write_text(f'[client]\npassword={PASSWORD}\n')
        assert SuiteStore(f'{url}?read_default_file={file}').states() == []
        return
    file = tmp_path / 'pgpass'
    file.write_text(f'127.0.0.1:{server.port}:*:mmkdml:{PASSWORD}\n')
    file.chmod(0o600)
    for name, value in (('PGPASSFILE', str(file)), ('PGPASSWORD', PASSWORD)):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert SuiteStore(url).states() == []


def test_summaries_of_concurrent_workers_are_stored_without_deadlocks(server, workers):
    runs = [RunSpec(f'run_{number}', seed, 'c') for seed in (0, 1) for number in range(12)]
    store, lines = SuiteStore(workers.url), []
    store.register(runs, {run.name: '' for run in runs}, 'suite')
    expected = {(run.name, run.seed): run.key.encode() for run in runs}

    def finish(worker):
        own = SuiteStore(workers.url, retry_seconds=60, log=lines.append)
        for run in own.states():
            content = expected[run.name, run.seed]
            # A running run could be claimed, too: it is lost if nothing changes it.
            if run.state == WAITING and own.claim(run, worker, 0.0):
                assert own.finish(run, worker, b'result', 1.0, {'one': content, 'two': b'2'})
        own.engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(finish, 'abcd'))
    assert lines == []
    assert store.summaries('one') == expected
    some = [('run_3', 1), ('run_11', 0)]
    assert store.summaries('one', some) == {key: expected[key] for key in some}
    store.add_summaries({some[0]: {'one': b'new'}})
    assert store.summaries('one', some[:1]) == {some[0]: b'new'}
    store.engine.dispose()


def test_concurrent_workers_claim_each_run_once(server, workers, monkeypatch):
    """Names differ only in case, and claimable runs are on several pages."""
    monkeypatch.setattr('mmkdml.experiments.suites.store.states._PAGE', 5)
    teachers = [RunSpec(f'Run_{number}', seed, 'c') for seed in (0, 1) for number in range(8)]
    students = [
        RunSpec(run.name.lower(), run.seed, 'c', teacher=run.name) for run in teachers[::-1]
    ]
    suite = Suite('s', 's.py', 'T', ('IoU',), (), (*students, *teachers), workers.folder)
    store, lines, claimed = SuiteStore(workers.url), [], []
    assert store.register(suite.runs, {run.name: run.name for run in suite.runs}) == 32

    def work(worker):
        own = SuiteStore(workers.url, retry_seconds=60, log=lines.append)
        queue = RunQueue(suite, own, worker)
        if worker in 'ab':
            queue._keys = None  # as with more runs
        while queue.has_unfinished_runs():
            run, blocked = queue.claim_next()
            assert blocked == []
            if run is None:
                time.sleep(0.01)
                continue
            claimed.append(run.key)
            if run.teacher is not None:
                assert own.states_of([(run.teacher, run.seed)]) == {(run.teacher, run.seed): DONE}
            assert own.settings_of(run.name) == run.name
            (workers.folder / run.key).mkdir(parents=True)
            assert own.finish(run, worker, b'result', 2.5)
        own.engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, 'abcd'))
    assert lines == []
    assert sorted(claimed) == sorted(run.key for run in suite.runs)
    assert store.counts() == {DONE: 32}
    groups = store.groups()
    assert {(one.name, one.runs, one.seconds) for one in groups} == {
        (run.name, 2, 5.0) for run in suite.runs
    }
    store.engine.dispose()


def test_tables_of_an_earlier_version_are_used(server, workers):
    """Their names have the collation of the server, which does not distinguish case."""
    if not isinstance(server, MariaDB):
        pytest.skip('PostgreSQL distinguishes case')
    store = SuiteStore(workers.url)
    text = 'VARCHAR(200) COLLATE utf8mb4_general_ci'
    with store.engine.begin() as connection:
        change = f'ALTER TABLE runs MODIFY name {text} NOT NULL, MODIFY teacher {text}'
        connection.execute(sa.text(change))
    runs = [RunSpec('KD', 0, 'c'), RunSpec('student', 0, 'c', teacher='KD')]
    with pytest.raises(ValueError, match='got KD, kd'):
        store.register([*runs, RunSpec('kd', 0, 'c')], dict(KD='', kd='', student=''))
    assert store.register(runs, dict(KD='', student='')) == 2
    suite = Suite('s', 's.py', 'T', ('IoU',), (), tuple(runs), workers.folder)
    for run in runs:
        found, _ = RunQueue(suite, store, 'w').claim_next()
        assert found.key == run.key
        (workers.folder / run.key).mkdir(parents=True)
        assert store.finish(found, 'w', b'result', 1.0, {'one': b'1'})
    assert store.summaries('one') == {(run.name, 0): b'1' for run in runs}
    store.engine.dispose()
