"""Checks for limits of MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from mmkdml.experiments.suites.store.rows import RunState
from mmkdml.experiments.suites.store.states import StateStore

_DIALECTS = ('mysql', 'mariadb')
# Bytes that MySQL's drivers escape.
_ESCAPED = [bytes([code]) for code in b'\0\n\r\x1a\'"\\']


class MySQLLimits(StateStore):
    """Base of :class:`~.store.SuiteStore`, which describes its arguments."""

    def size_error(self, run: RunState, result: bytes) -> str | None:
        """Return an error if a result is too large for a statement of MySQL or MariaDB.

        Args:
            run: State of the run.
            result: The largest value of :meth:`finish`.
        """
        if self.engine.dialect.name not in _DIALECTS:
            return None
        packet = sa.text('SELECT @@max_allowed_packet')
        limit = self._transaction(lambda session: session.scalar(packet)) or 0
        size = len(result) + sum(map(result.count, _ESCAPED)) + 2048
        if size <= limit:
            return None
        return (
            f'Invalid result of {run.key}: expected at most max_allowed_packet of the database, '
            f'{limit / 2**20:.1f} MiB, got {size / 2**20:.1f} MiB. Increase it (SET GLOBAL '
            f'max_allowed_packet = {1 << max(size.bit_length(), 26)}, and in the configuration of '
            'the server), and resume: the result is kept in the folder of the run, and is '
            'recorded then'
        )

    def _check_case(self, names: Iterable[str]) -> None:
        """Check that the table of runs distinguishes names that differ only in case."""
        by_folded: dict[str, list[str]] = {}
        for name in sorted(names):
            by_folded.setdefault(name.casefold(), []).append(name)
        equal = next((one for one in by_folded.values() if len(one) > 1), None)
        if equal is None or self.engine.dialect.name not in _DIALECTS:
            return
        collation = sa.text(
            'SELECT collation_name FROM information_schema.columns WHERE table_schema = DATABASE() '
            "AND table_name = 'runs' AND column_name = 'name'"
        )
        if str(self._transaction(lambda session: session.scalar(collation))).endswith('_ci'):
            raise ValueError(
                f'Invalid names of runs: expected names that differ not only in case, got '
                f'{", ".join(equal)}. The tables of {self.url} were created by an earlier version, '
                'which did not distinguish them. Use a new database (--storage), or rename the runs'
            )
