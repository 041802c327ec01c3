"""Access to databases that may be unavailable: time-outs, retries and error messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from mmkdml.console import in_words
from mmkdml.experiments.database_errors import (
    ERRORS,
    advice_for,
    cause_of,
    is_transient,
    without_passwords,
)

LOCK_SECONDS = 60.0
CONNECT_SECONDS = 10
STATEMENT_SECONDS = 60
# Workers retry for this duration; other programs fail at once.
RETRY_SECONDS = 600.0
_STOP_SECONDS = 5.0
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 10.0
_TIMEOUTS: dict[str, dict[str, int]] = {
    **dict.fromkeys(
        ('psycopg', 'psycopg2'),
        dict(connect_timeout=CONNECT_SECONDS, keepalives_idle=30, keepalives_interval=10),
    ),
    **dict.fromkeys(
        ('pymysql', 'mysqldb'),
        dict(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=STATEMENT_SECONDS,
            write_timeout=STATEMENT_SECONDS,
        ),
    ),
    'mysqlconnector': dict(connection_timeout=CONNECT_SECONDS),
    'pg8000': dict(timeout=STATEMENT_SECONDS),
}
T = TypeVar('T')


class UnavailableError(ValueError):
    """A database was unreachable until the limit of the retries, or until the program stopped."""


class Database:
    """Call functions that use a database with a time limit, and retry transient errors.

    A restarted server, a lost connection, a lock and a server that does not answer are transient
    errors: they are retried with increasing delays for :attr:`retry_seconds`. All other errors are
    raised at once.

    Args:
        url: SQLAlchemy URL.
        lock_seconds: Time to wait for a lock of SQLite.
        errors: Errors that are explained as those of the database; by default also values whose
            type differs from their column's.

    Attributes:
        url: The URL without passwords, for messages.
        engine: Set by the owner; after a time-out its connections are not used again.
        retry_seconds: Duration of the retries of transient errors. Default: 0.
        stop: When set, calls end within some seconds and are not retried.
        log: Prints a line when the connection is lost and when it is back.
        back_since: Value of ``time.monotonic()`` when the database was back after an outage.

    Raises:
        ValueError: If the URL is invalid or its driver is missing.
    """

    def __init__(
        self,
        url: str,
        lock_seconds: float = LOCK_SECONDS,
        errors: tuple[type[BaseException], ...] = ERRORS,
    ) -> None:
        self.url, self._secrets = without_passwords(url)
        self._lock_seconds, self._errors, self._backend = lock_seconds, ERRORS, ''
        self.engine: Engine | None = None
        self.retry_seconds = 0.0
        self.stop = threading.Event()
        self.log: Callable[[str], None] = lambda _: None
        self.back_since = -float('inf')
        self._lost_since: float | None = None
        self._has_connected = self._gave_up = False
        self._lock = threading.Lock()
        self._inside = threading.local()
        with self._explain_errors():
            parsed = sa.make_url(url)
            if '@' in (parsed.host or ''):
                raise ValueError('expected one @, got several. Write @ in the password as %40')
            self._backend = parsed.get_backend_name()
            self.engine_options = self._engine_options(parsed)
        self._errors = errors
        in_memory = self._backend == 'sqlite' and parsed.database in (None, '', ':memory:')
        # A database in memory belongs to its thread.
        locks = lock_seconds if self._backend == 'sqlite' else 0.0
        self._limit = None if in_memory else CONNECT_SECONDS + STATEMENT_SECONDS + locks

    def _engine_options(self, url: URL) -> dict[str, Any]:
        if self._backend == 'sqlite':
            return dict(connect_args=dict(timeout=self._lock_seconds))
        options = _TIMEOUTS.get(url.get_driver_name(), {})
        return dict(
            connect_args={key: value for key, value in options.items() if key not in url.query},
            pool_pre_ping=True,
            # Hundreds of idle workers would use up the connections of a server.
            pool_size=1,
            max_overflow=-1,
        )

    def create_engine(self, url: str) -> Engine:
        """Create an engine, which does not connect yet.

        Raises:
            ValueError: If the driver is missing.
        """
        with self._explain_errors():
            return self.use(sa.create_engine(url, **self.engine_options))

    def use(self, engine: Engine) -> Engine:
        """Set :attr:`engine`, and limit the duration of its statements."""
        self.engine = engine
        if self._backend == 'postgresql':

            @sa.event.listens_for(engine, 'begin')
            def limit(connection: sa.Connection) -> None:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")

        return engine

    def call(self, function: Callable[[], T], retry: bool = True) -> T:
        """Return the value of a function that uses the database.

        Args:
            function: Must have the same effect if it is called again after it succeeded, because
                a connection may be lost before the confirmation of a commit arrives.
            retry: Retry transient errors for :attr:`retry_seconds`.

        Raises:
            UnavailableError: If a transient error did not pass.
            ValueError: After other errors of the database.
        """
        if getattr(self._inside, 'flag', False):
            return function()
        seconds = self.retry_seconds if retry else 0
        with self._explain_errors(seconds):
            return self._call(function, seconds)

    def _call(self, function: Callable[[], T], seconds: float) -> T:
        start, delay = None, _FIRST_DELAY
        while True:
            try:
                result = self._call_in_thread(function)
            except Exception as error:
                if not is_transient(error, self._backend, self._has_connected):
                    raise
                now = time.monotonic()
                start = now if start is None else start
                left = 0 if self._gave_up or self.stop.is_set() else start + seconds - now
                if left <= 0:
                    self._gave_up = self._gave_up or seconds > 0
                    raise
                self._note_lost(self._reason(error), seconds)
                self.stop.wait(min(delay, left))
                delay = min(2 * delay, _LONGEST_DELAY)
            else:
                self._note_back()
                return result

    def _call_in_thread(self, function: Callable[[], T]) -> T:
        """Call a function in a thread, which is abandoned if it does not return in time.

        No driver limits all three: host lookup, connecting, and waiting for a paused server.
        """
        if self._limit is None:
            return function()
        outcome: list[tuple[bool, Any]] = []
        ended = threading.Event()

        def work() -> None:
            self._inside.flag = True
            try:
                outcome.append((True, function()))
            except BaseException as error:  # raised below
                outcome.append((False, error))
            ended.set()

        threading.Thread(target=work, daemon=True, name='database').start()
        end = time.monotonic() + self._limit
        while not ended.wait(0.1):
            if self.stop.is_set():
                end = min(end, time.monotonic() + _STOP_SECONDS)
            if time.monotonic() > end:
                if self.engine is not None:
                    self.engine.dispose(close=False)
                raise TimeoutError('no answer from the server')
        succeeded, value = outcome[0]
        if not succeeded:
            raise value
        return value

    def _note_lost(self, reason: str, seconds: float) -> None:
        with self._lock:
            is_new = self._lost_since is None
            self._lost_since = self._lost_since or time.monotonic()
        if is_new:
            self.log(
                f'database {self.url} is unavailable: {reason}. Retrying for {in_words(seconds)}'
            )

    def _note_back(self) -> None:
        with self._lock:
            lost, self._lost_since = self._lost_since, None
            self._has_connected, self._gave_up = True, False
            if lost is not None:
                self.back_since = time.monotonic()
        if lost is not None:
            self.log(f'database is back after {in_words(self.back_since - lost)}')

    def _reason(self, error: BaseException) -> str:
        error = cause_of(error)
        return self.hide(' '.join(str(getattr(error, 'orig', None) or error).split()))

    def hide(self, text: str) -> str:
        """Replace the passwords of the URL in a text, e.g. an error message of a driver."""
        for secret in self._secrets:
            text = text.replace(secret, '***')
        return text

    @contextmanager
    def _explain_errors(self, seconds: float = 0) -> Iterator[None]:
        """Re-raise database errors with advice."""
        try:
            yield
        except UnavailableError:
            raise
        except Exception as error:
            cause = cause_of(error)
            passes = is_transient(error, self._backend, self._has_connected)
            if not (passes or isinstance(cause, self._errors)):
                raise
            kind = UnavailableError if passes else ValueError
            advice = advice_for(cause, self._backend, passes)
            reason = self._reason(error).rstrip('.')
            is_limit = passes and seconds and not self.stop.is_set()
            retried = f' (retried for {in_words(seconds)})' if is_limit else ''
            raise kind(
                f'Cannot access the database {self.url}: {reason}{retried}. {advice}'
            ) from cause
