"""Retries, time limits and messages of databases, with injected faults instead of a server."""

import socket
import sqlite3
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from mmkdml.experiments import database as module
from mmkdml.experiments.database import Database, UnavailableError

POSTGRESQL = 'postgresql+psycopg://u:s3cret@h/db'
MYSQL = 'mysql+pymysql://u:s3cret@h/db'


def lost(message='server closed the connection unexpectedly', **attributes):
    """Error of a driver, as SQLAlchemy raises it."""
    original = type('Error', (Exception,), attributes)(message)
    return OperationalError('SELECT 1', {}, original, connection_invalidated=False)


def mysql(code, text='text'):
    return OperationalError('SELECT 1', {}, Exception(code, text))


class Clock:
    """Clock and event that advance instead of waiting."""

    def __init__(self):
        self.now, self.delays, self.is_stopped = 0.0, [], False

    def monotonic(self):
        return self.now

    def is_set(self):
        return self.is_stopped

    def wait(self, seconds):
        self.delays.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, 'time', SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def make(clock):
    def make(url='sqlite://', seconds=600.0):
        database = Database(url)
        database._limit = None  # call functions in this thread
        database.retry_seconds, database.stop, lines = seconds, clock, []
        database.log = lines.append
        return database, lines

    return make


def failing(errors, value='value'):
    errors = list(errors)

    def function():
        if errors:
            raise errors.pop(0)
        return value

    return function


def test_transient_errors_are_retried_with_increasing_delays(make, clock):
    database, lines = make(POSTGRESQL)
    assert database.call(failing([lost()] * 9)) == 'value'
    assert clock.delays == sorted(clock.delays)
    assert clock.delays[0] < 1 < clock.delays[-1] <= 10
    assert len(lines) == 2  # one outage
    assert 'unavailable' in lines[0]
    assert 'back' in lines[1]
    assert database.back_since == clock.now


def test_retries_end_at_the_limit(make, clock):
    database, _ = make(POSTGRESQL, seconds=60)
    with pytest.raises(UnavailableError, match=r'closed the connection .*1 min.* resume'):
        database.call(failing([lost()] * 999))
    assert clock.now == 60
    # Afterwards other calls do not wait again, until the database is back.
    with pytest.raises(UnavailableError):
        database.call(failing([lost()] * 999))
    assert clock.now == 60
    database.call(failing([]))
    assert database.call(failing([lost()])) == 'value'
    assert clock.now > 60


def test_without_a_limit_nothing_is_retried(make, clock):
    for database, retry in ((make(POSTGRESQL, 0)[0], True), (make(POSTGRESQL)[0], False)):
        with pytest.raises(UnavailableError):
            database.call(failing([lost()]), retry)
    assert clock.delays == []


def test_stopped_program_does_not_retry(make, clock):
    database, _ = make(POSTGRESQL)
    clock.is_stopped = True
    with pytest.raises(UnavailableError):
        database.call(failing([lost()]))
    assert clock.delays == []


@pytest.mark.parametrize(
    ('url', 'error', 'is_transient'),
    [
        (POSTGRESQL, lost('connection refused. Is the server running on that host?'), True),
        (POSTGRESQL, lost('FATAL: the database system is starting up'), True),
        (POSTGRESQL, lost('consuming input failed: SSL SYSCALL error: EOF detected'), True),
        (POSTGRESQL, lost(sqlstate='57P01'), True),
        (POSTGRESQL, lost(pgcode='40P01'), True),
        (POSTGRESQL, lost('could not extend file: No space left', sqlstate='53100'), False),
        (POSTGRESQL, lost('FATAL: password authentication failed for user "u"'), False),
        (POSTGRESQL, lost('FATAL: database "db" does not exist'), False),
        (POSTGRESQL, lost('could not translate host name "h" to address'), False),
        (POSTGRESQL, lost('failed to resolve host "h": Name or service not known'), False),
        (POSTGRESQL, ProgrammingError('x', {}, Exception('syntax error')), False),
        (MYSQL, mysql(2003), True),
        (MYSQL, mysql(2003, 'Temporary failure in name resolution'), False),
        (MYSQL, mysql(2013), True),
        (MYSQL, mysql(1205), True),
        (MYSQL, mysql(1045), False),
        (MYSQL, mysql(1153), False),
        ('sqlite://', lost('database is locked'), True),
        ('sqlite://', lost('disk I/O error'), False),
        ('sqlite://', DBAPIError('x', {}, Exception('file is not a database')), False),
        ('sqlite://', IntegrityError('x', {}, Exception('UNIQUE constraint failed')), False),
        ('sqlite://', TimeoutError('no answer'), True),
    ],
)
def test_only_errors_that_pass_are_retried(make, clock, url, error, is_transient):
    database, _ = make(url)
    if is_transient:
        assert database.call(failing([error])) == 'value'
    else:
        with pytest.raises(ValueError, match='Cannot access') as raised:
            database.call(failing([error]))
        assert not isinstance(raised.value, UnavailableError)
        assert clock.delays == []


def test_unknown_host_is_retried_after_a_connection(make):
    database, _ = make(POSTGRESQL)
    database.call(failing([]))
    assert database.call(failing([lost('could not translate host name')])) == 'value'


def test_unknown_host_fails_at_once_even_with_retries():
    """Creating an engine is not a connection."""
    pytest.importorskip('pymysql')
    url = 'mysql+pymysql://u:s3cret@no-such-host.invalid/db'
    database, lines = Database(url), []
    database.retry_seconds, database.log = 600, lines.append
    engine = database.create_engine(url)
    with pytest.raises(ValueError, match=r'no-such-host\.invalid') as raised:
        database.call(lambda: engine.connect().close())
    assert not isinstance(raised.value, UnavailableError)
    assert lines == []


def test_other_errors_are_not_changed(make):
    database, _ = make()
    with pytest.raises(KeyError, match='other'):
        database.call(failing([KeyError('other')]))


def test_call_that_does_not_return_is_abandoned():
    database = Database(POSTGRESQL)
    database._limit, hanging = 0.05, threading.Event()
    engine = sa.create_engine('sqlite://', poolclass=sa.pool.QueuePool)
    database.engine, pool = engine, engine.pool
    with pytest.raises(UnavailableError, match='no answer'):
        database.call(lambda: hanging.wait(300))
    assert engine.pool is not pool  # its connections are not used again
    hanging.set()


def test_stop_abandons_a_call(monkeypatch):
    monkeypatch.setattr(module, '_STOP_SECONDS', 0.05)
    database, hanging = Database(POSTGRESQL), threading.Event()
    database.retry_seconds = 600
    threading.Timer(0.05, database.stop.set).start()
    with pytest.raises(UnavailableError, match='no answer'):
        database.call(lambda: hanging.wait(300))
    hanging.set()


def test_server_that_accepts_and_never_answers():
    pytest.importorskip('psycopg')
    with socket.create_server(('127.0.0.1', 0)) as server:
        url = f'postgresql+psycopg://u:s3cret@127.0.0.1:{server.getsockname()[1]}/db'
        database = Database(url)
        database._limit = 0.3
        engine = database.create_engine(url)
        with pytest.raises(UnavailableError, match='no answer') as raised:
            database.call(lambda: engine.connect().close())
    assert 's3cret' not in str(raised.value)


def test_process_ends_while_a_call_hangs():
    code = (
        'import threading\n'
        'from mmkdml.experiments.database import Database\n'
        'database = Database("sqlite:///x.db")\n'
        'database._limit = 0.05\n'
        'try:\n'
        '    database.call(lambda: threading.Event().wait())\n'
        'except ValueError:\n'
        '    print("ended")\n'
    )
    found = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True)
    assert found.stdout == b'ended\n'


@pytest.mark.parametrize(
    'url',
    [
        'postgresql+nodriver://u:s3cret@h/db',
        'postgresql://u:s3cret@x@h/db',
        'postgresql://u:s3cret@h:port/db',
        'nonsense:s3cret',
    ],
)
def test_messages_have_no_password(url):
    with pytest.raises(ValueError, match='Cannot access the database') as raised:
        Database(url).create_engine(url)
    assert url == 'nonsense:s3cret' or 's3cret' not in str(raised.value)


def test_message_of_a_driver_has_no_password(make):
    database, _ = make(POSTGRESQL)
    with pytest.raises(ValueError, match=r'\*\*\*') as raised:
        database.call(failing([lost('FATAL: password authentication failed: u:s3cret')]))
    assert 's3cret' not in str(raised.value)


def test_locks_of_sqlite_are_retried(tmp_path):
    path = tmp_path / 'x.db'
    url = f'sqlite:///{path}'
    database = Database(url, lock_seconds=0.01)
    database.retry_seconds, lines = 600, []
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute('BEGIN EXCLUSIVE')
    database.log = lambda line: (lines.append(line), other.rollback())
    engine = database.create_engine(url)

    def create():
        with engine.begin() as connection:
            connection.exec_driver_sql('CREATE TABLE t (x)')

    database.call(create)
    other.close()
    assert 'locked' in lines[0]
    assert sa.inspect(engine).has_table('t')
