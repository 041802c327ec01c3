"""Errors of databases: which ones pass by themselves, advice, and URLs without passwords."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError, SQLAlchemyError

# Includes missing drivers, invalid URLs and values whose type differs from their column's.
ERRORS: tuple[type[BaseException], ...] = (
    SQLAlchemyError, ImportError, MemoryError, OSError, OverflowError, TypeError, ValueError
)  # fmt: skip
# SQLSTATE: connection lost, rolled back, too many connections, lock, canceled, shut down.
_STATES = ('08', '40', '53300', '55P03', '57014', '57P0')
# MySQL and MariaDB: connections (1040 to 1927, 2002 to 4031), locks (1205, 1213), time-outs.
_CODES = {
    1040, 1053, 1077, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1317, 1927, 1969, 2002, 2003, 2006,
    2013, 2055, 3024, 4031,
}  # fmt: skip
_MYSQL = ('mysql', 'mariadb')
# libpq reports errors of connecting without SQLSTATE; these do not pass by themselves.
_PERMANENT = re.compile(
    'password|authentication|does not exist|pg_hba|[Pp]ermission denied|certificate|support SSL|'
    'invalid (connection|integer|port|URI|dsn|sslmode)'
)
_UNKNOWN_HOST = re.compile('translate host|resolve|[Nn]ame or service|nodename|name resolution')
_SECRET = re.compile('pass|pwd|secret|token|odbc_connect', re.IGNORECASE)


def cause_of(error: BaseException) -> BaseException:
    """Return the database's error that another library has wrapped."""
    inner = error.__cause__
    is_wrapper = isinstance(inner, SQLAlchemyError) and not isinstance(error, SQLAlchemyError)
    return inner if inner is not None and is_wrapper else error


def is_transient(error: BaseException, backend: str, has_connected: bool) -> bool:
    """Return whether an error may pass by itself.

    Args:
        error: The error.
        backend: SQLAlchemy's name of the kind of database.
        has_connected: Whether there was a connection. An unknown host is an error in the URL
            before the first one.
    """
    error = cause_of(error)
    if isinstance(error, (TimeoutError, ConnectionError, sa.exc.TimeoutError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    reason = str(error.orig)
    if backend == 'sqlite':
        return isinstance(error, OperationalError) and 'locked' in reason
    if _UNKNOWN_HOST.search(reason):
        return has_connected
    if backend in _MYSQL:
        return _code(error) in _CODES
    state = getattr(error.orig, 'sqlstate', None) or getattr(error.orig, 'pgcode', None)
    if backend == 'postgresql' and not error.connection_invalidated:
        if state:
            return str(state).startswith(_STATES)
        return isinstance(error, OperationalError) and not _PERMANENT.search(reason)
    return error.connection_invalidated


def advice_for(error: BaseException, backend: str, is_transient: bool) -> str:
    """Return how to fix an error, from :func:`cause_of`."""
    reason = str(getattr(error, 'orig', None) or error)
    if isinstance(error, OperationalError) and 'locked' in reason:
        return 'Close the other program that has locked it, and resume'
    if is_transient:
        return (
            'Check that its server is running and reachable, and resume: checkpoints and '
            'results that are not recorded yet are kept in the folders of the runs'
        )
    if isinstance(error, OperationalError) and 'full' in reason:
        return 'Free some space and resume; finished runs are kept'
    if isinstance(error, DatabaseError) and backend == 'sqlite':
        advice = (
            'Move the file away and run the suite again: finished trainings are found in '
            'their folders and only tested again'
        )
        if 'I/O' in reason:  # SQLite's error for a quota and a limit on file sizes
            advice = f'Resume when disk, quota and limits allow it. If they do: {advice}'
        return advice
    if _code(error) == 1153:
        return 'Increase max_allowed_packet of the server, and resume'
    return 'Check the URL, the driver, the password and your permissions'


def _code(error: BaseException) -> Any:
    arguments = getattr(getattr(error, 'orig', None), 'args', ())
    return arguments[0] if arguments else None


def without_passwords(url: str) -> tuple[str, list[str]]:
    """Return a URL for messages, and its secret parts, longest first."""
    secrets = set()
    hidden = url
    if match := re.match(r'[^:/]+://[^:/@]*:(.*)@', url):
        secrets.add(match[1])
        hidden = f'{url[: match.start(1)]}***{url[match.end(1) :]}'
    for match in re.finditer(r'[?&]([^=&]*)=([^&]*)', hidden):
        if _SECRET.search(match[1]) and not match[1].endswith('file'):
            secrets.add(match[2])
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        hidden = re.sub(rf'(?<==){re.escape(secret)}', '***', hidden)
    return hidden, sorted(filter(None, secrets), key=len, reverse=True)
