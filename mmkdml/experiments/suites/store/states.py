"""Reading access to the states of runs in the database of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from mmkdml.experiments.suites.store.rows import GROUP, STATE, RunGroup, RunRow, RunState
from mmkdml.experiments.suites.store.summaries import SummaryStore
from mmkdml.statistics.records import RUNNING, WAITING

Key = tuple[str, int]
T = TypeVar('T')
_UNFINISHED = (WAITING, RUNNING)
_FIELDS = tuple(getattr(RunRow, name) for name in RunState.__dataclass_fields__)
_PLACE = (RunRow.position, RunRow.name, RunRow.seed)
_PAGE = 32


class StateStore(SummaryStore):
    """Base of :class:`~.store.SuiteStore`, which describes its arguments.

    Workers of suites with thousands of runs use the methods that read some rows or count them.
    """

    def states(self, retry: bool = True) -> list[RunState]:
        """Return the states of all runs, in the order of the suite.

        Args:
            retry: Retry while the database is unavailable.
        """
        rows = self._all(sa.select(*_FIELDS).order_by(*_PLACE), retry)
        return [self._validated(STATE.validate_python, row) for row in rows]

    def states_of(self, keys: Collection[Key]) -> dict[Key, str]:
        """Return the state of some runs by name and seed, without those that do not exist.

        Args:
            keys: Names and seeds, at most a few hundred.
        """
        if not keys:
            return {}
        statement = sa.select(RunRow.name, RunRow.seed, RunRow.state).where(_is_one_of(keys))
        return {(name, seed): state for name, seed, state in self._all(statement)}

    def counts(self, retry: bool = True) -> Counter[str]:
        """Count the runs of each state.

        Args:
            retry: Retry while the database is unavailable.
        """
        statement = sa.select(RunRow.state, sa.func.count()).group_by(RunRow.state)
        return Counter(dict(self._all(statement, retry)))

    def groups(self, retry: bool = True) -> list[RunGroup]:
        """Count the runs of each name and state, and add up their durations.

        Args:
            retry: Retry while the database is unavailable.
        """
        statement = sa.select(
            RunRow.name,
            RunRow.state,
            sa.func.count().label('runs'),
            sa.func.count(RunRow.seconds).label('timed'),
            sa.func.coalesce(sa.func.sum(RunRow.seconds), 0.0).label('seconds'),
        ).group_by(RunRow.name, RunRow.state)
        rows = self._all(statement, retry)
        return [self._validated(GROUP.validate_python, row) for row in rows]

    def unfinished(self, keys: Collection[Key] | None = None) -> list[Key]:
        """Return name and seed of the runs that are waiting or running.

        Args:
            keys: Names and seeds to choose from, at most a few hundred. Default: all.
        """
        statement = sa.select(RunRow.name, RunRow.seed).where(RunRow.state.in_(_UNFINISHED))
        if keys is not None:
            statement = statement.where(_is_one_of(keys))
        return [(name, seed) for name, seed in self._all(statement)]

    def running_workers(self) -> list[str | None]:
        """Return the worker of each running run."""
        statement = sa.select(RunRow.worker).where(RunRow.state == RUNNING)
        return [worker for (worker,) in self._all(statement)]

    def claimable(self, keys: Collection[Key] | None = None) -> Iterator[list[RunState]]:
        """Iterate over runs that may be claimed or blocked, in the order of the suite, by page.

        These are running runs, whose worker may be lost, and waiting ones, without those whose
        ``teacher`` is waiting or running. Teachers of other folds are not considered.

        Args:
            keys: Names and seeds to choose from, at most a few hundred. Default: all.
        """
        teacher = aliased(RunRow)
        waits = sa.exists().where(
            teacher.name == RunRow.teacher,
            teacher.seed == RunRow.seed,
            teacher.state.in_(_UNFINISHED),
        )
        first = sa.select(*_PLACE).where(
            RunRow.state.in_(_UNFINISHED), sa.or_(RunRow.state == RUNNING, ~waits)
        )
        first = first.order_by(*_PLACE).limit(_PAGE)
        if keys is not None:
            first = first.where(_is_one_of(keys))
        places = first
        while True:
            # Sorts without the long columns, which are read for one page.
            page = places.subquery()
            is_on_page = (RunRow.name == page.c.name) & (RunRow.seed == page.c.seed)
            statement = sa.select(RunRow.position, *_FIELDS).join(page, is_on_page)
            rows = self._all(statement.order_by(*_PLACE))
            yield [self._validated(STATE.validate_python, row) for row in rows]
            if len(rows) < _PAGE:
                return
            last = rows[-1]
            after = sa.tuple_(sa.literal(last.position), sa.literal(last.name), last.seed)
            places = first.where(sa.tuple_(*_PLACE) > after)

    def settings(self) -> dict[str, str]:
        """Return the settings text of each run by name."""
        first = sa.select(RunRow.name, sa.func.min(RunRow.seed).label('seed')).group_by(RunRow.name)
        of_first = first.subquery()
        statement = sa.select(RunRow.name, RunRow.settings).join(
            of_first, (RunRow.name == of_first.c.name) & (RunRow.seed == of_first.c.seed)
        )
        return {str(name): text for name, text in self._all(statement)}

    def settings_of(self, name: str) -> str | None:
        """Return the settings text of a run; None if there is no such run."""
        statement = sa.select(RunRow.settings).where(RunRow.name == name)
        statement = statement.order_by(RunRow.seed).limit(1)
        return self._transaction(lambda session: session.scalar(statement))

    def _all(self, statement: sa.Select, retry: bool = True) -> list[Any]:
        return self._transaction(lambda session: list(session.execute(statement)), retry)

    def _validated(self, validate: Callable[[Any], T], row: Any) -> T:
        values = row._asdict()
        values.pop('position', None)
        try:
            return validate(values)
        except ValueError as error:
            raise ValueError(f'Invalid row in {self.url}: {error}') from error


def _is_one_of(keys: Collection[Key]) -> sa.ColumnElement[bool]:
    return sa.tuple_(RunRow.name, RunRow.seed).in_(list(keys))
