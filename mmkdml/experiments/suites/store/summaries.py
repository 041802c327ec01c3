"""Access to the database of a suite, and its table of summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from mmkdml.experiments.database import LOCK_SECONDS, Database
from mmkdml.experiments.suites.store.rows import Base, RunRow, SummaryRow

T = TypeVar('T')


class SummaryStore:
    """Base of :class:`~.store.SuiteStore`, which describes its arguments."""

    def __init__(
        self,
        url: str,
        lock_seconds: float = LOCK_SECONDS,
        retry_seconds: float = 0,
        log: Callable[[str], None] = print,
    ) -> None:
        self.database = Database(url, lock_seconds)
        self.database.retry_seconds, self.database.log = retry_seconds, log
        self.url = self.database.url
        self.engine = self.database.create_engine(url)
        self._create_table(RunRow)

    def _create_table(self, row: type[Base]) -> None:
        def create() -> None:
            tables = [cast(sa.Table, row.__table__)]
            try:
                Base.metadata.create_all(self.engine, tables)
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                # Another worker created it between check and creation.
                Base.metadata.create_all(self.engine, tables)

        self.database.call(create)

    def has_summaries(self) -> bool:
        """Return whether the database has a table of summaries; earlier versions made none."""
        return self._transaction(
            lambda session: sa.inspect(session.connection()).has_table(SummaryRow.__tablename__)
        )

    def summaries(
        self, part: str, keys: Sequence[tuple[str, int]] | None = None
    ) -> dict[tuple[str, int], bytes]:
        """Return a part of the summaries by name and seed, for all runs or some.

        Args:
            part: Name of the part.
            keys: Names and seeds, at most a few hundred.
        """
        statement = sa.select(SummaryRow.name, SummaryRow.seed, SummaryRow.content)
        statement = statement.where(SummaryRow.part == part)
        if keys is not None:
            statement = statement.where(sa.tuple_(SummaryRow.name, SummaryRow.seed).in_(keys))
        rows = self._transaction(lambda session: session.execute(statement).all())
        return {(name, seed): content for name, seed, content in rows}

    def add_summaries(self, summaries: Mapping[tuple[str, int], Mapping[str, bytes]]) -> None:
        """Replace the summaries of some runs, by name and seed."""
        self._create_table(SummaryRow)

        def add(session: Session) -> None:
            for (name, seed), summary in summaries.items():
                replace_summary(session, name, seed, summary)

        self._transaction(add)

    def _execute(self, statement: sa.Update) -> int:
        """Execute an update in one transaction; returns the number of matched rows."""
        return self._transaction(
            lambda session: cast(sa.CursorResult, session.execute(statement)).rowcount
        )

    def _add(self, function: Callable[[Session], Any]) -> bool:
        """Add rows; false, without effect, if another worker has just added one of them.

        This worker may have added them itself, if the confirmation was lost.
        """
        try:
            self._transaction(function)
        except ValueError as error:
            if isinstance(error.__cause__, IntegrityError):
                return False
            raise
        return True

    def _transaction(self, function: Callable[[Session], T], retry: bool = True) -> T:
        def transaction() -> T:
            with Session(self.engine) as session, session.begin():
                return function(session)

        return self.database.call(transaction, retry)


def replace_summary(session: Session, name: str, seed: int, summary: Mapping[str, bytes]) -> None:
    """Add the parts of a summary, or replace them."""
    # Reads by primary key: a DELETE by name would lock the rows of all runs in MySQL.
    for part, content in summary.items():
        session.merge(SummaryRow(part=part, name=name, seed=seed, content=content))
