"""Database of a suite: one row per run, in any database that SQLAlchemy supports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from pydantic import FiniteFloat, TypeAdapter
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mmkdml.apis.run.settings import other_settings_error
from mmkdml.commands import tool_command
from mmkdml.experiments.run_spec import RunSpec, has_data_hashes, run_key, settings_changes
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

DATABASE = 'suite.db'
LOCK_SECONDS = 60.0
# Includes missing drivers, invalid URLs and values whose type differs from their column's.
_DATABASE_ERRORS = (
    SQLAlchemyError, ImportError, MemoryError, OverflowError, TypeError, ValueError
)  # fmt: skip


class _Base(DeclarativeBase):
    pass


class _Row(_Base):
    __tablename__ = 'runs'

    name: Mapped[str] = mapped_column(sa.String(200), primary_key=True)
    seed: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int]
    teacher: Mapped[str | None] = mapped_column(sa.String(200))
    settings: Mapped[str] = mapped_column(sa.Text)
    state: Mapped[str] = mapped_column(sa.String(10), index=True)
    worker: Mapped[str | None] = mapped_column(sa.String(200))
    heartbeat: Mapped[int] = mapped_column('beat', default=0)
    started: Mapped[float | None]
    seconds: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(sa.Text)
    result: Mapped[bytes | None] = mapped_column(sa.LargeBinary(1 << 30), deferred=True)


class _SummaryRow(_Base):
    """Part of a result in a form that is read faster, see :mod:`~.suites.summaries`."""

    __tablename__ = 'summaries'

    part: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(200), primary_key=True)
    seed: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes] = mapped_column(sa.LargeBinary(1 << 30))


@dataclass(frozen=True)
class RunState:
    """State of a run in the database, without its result.

    Attributes:
        name: Name of the run.
        seed: Random seed.
        teacher: Name of the run that must be done first, if any.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        worker: Worker that claimed the run, ``<host>#<process id>.<number>``.
        heartbeat: Counter that the worker increments while the run is being executed.
        started: Unix time at which the worker claimed the run, by its own clock.
        seconds: Duration of a finished run.
        error: Failure reason of a failed run.
    """

    name: str
    seed: int
    teacher: str | None
    state: str
    worker: str | None
    heartbeat: int
    started: FiniteFloat | None
    seconds: FiniteFloat | None
    error: str | None

    @property
    def key(self) -> str:
        """``<name>/seed_<seed>``."""
        return run_key(self.name, self.seed)


_STATE = TypeAdapter(RunState)


class SuiteStore:
    """State and results of a suite's runs. Each change is one transaction.

    Args:
        url: SQLAlchemy URL of the database, e.g. ``sqlite:///path/suite.db``.
        lock_seconds: Time to wait for a lock of SQLite.

    Raises:
        ValueError: From the constructor and all methods, if the database is not accessible, locked
            by another program, corrupt or read-only.
    """

    def __init__(self, url: str, lock_seconds: float = LOCK_SECONDS) -> None:
        self.url = url
        options = {'connect_args': {'timeout': lock_seconds}} if url.startswith('sqlite') else {}
        with self._explain_errors():
            self.engine = sa.create_engine(url, **options)
            tables = [cast(sa.Table, _Row.__table__)]
            try:
                _Base.metadata.create_all(self.engine, tables)
            except OperationalError:  # another worker created a table between check and creation
                _Base.metadata.create_all(self.engine, tables)

    @classmethod
    def in_folder(cls, work_dir: str | Path, create: bool = True) -> SuiteStore:
        """Open the SQLite database in a suite's folder.

        Args:
            work_dir: The folder.
            create: Create the database if it does not exist.

        Raises:
            FileNotFoundError: If it does not exist and ``create`` is false.
        """
        path = Path(work_dir) / DATABASE
        if not create and not path.is_file():
            raise FileNotFoundError(
                f'No {DATABASE} in {work_dir}: the suite has not been started there. Start it with '
                f'{tool_command("suite")} run, or set its folder with --work-dir'
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f'sqlite:///{path}')

    def register(self, runs: Sequence[RunSpec], settings: Mapping[str, str]) -> int:
        """Add runs that are not in the database yet.

        Args:
            runs: All runs of the suite.
            settings: Settings text of each run by name.

        Returns:
            Number of added runs.

        Raises:
            ValueError: If a run is in the database with other settings or data; lists the
                differences.
        """
        with self._session() as session:
            columns = sa.select(_Row.name, _Row.seed, _Row.settings)
            known = {(name, seed): text for name, seed, text in session.execute(columns)}
        for run in runs:
            now = settings[run.name]
            before = known.get((run.name, run.seed), now)
            if changes := settings_changes(before, now):
                raise other_settings_error(
                    f'{run.key} was started in {self.url}',
                    changes,
                    'Undo the change, or choose another folder with --work-dir',
                )
            # Replace a text of an earlier version, or one from before the data existed.
            if before != now and has_data_hashes(now):
                row = sa.update(_Row).where(_Row.name == run.name, _Row.seed == run.seed)
                self._execute(row.values(settings=now))
        new = [
            _Row(name=run.name, seed=run.seed, position=position, teacher=run.teacher,
                 settings=settings[run.name], state=WAITING)
            for position, run in enumerate(runs)
            if (run.name, run.seed) not in known
        ]  # fmt: skip
        try:
            with self._session() as session:
                session.add_all(new)
        except ValueError as error:
            if isinstance(error.__cause__, IntegrityError):  # another worker has just added them
                return self.register(runs, settings)
            raise
        return len(new)

    def states(self) -> list[RunState]:
        """Return the states of all runs, in the order of the suite."""
        fields = list(RunState.__dataclass_fields__)
        columns = sa.select(*(getattr(_Row, name) for name in fields))
        with self._session() as session:
            rows = session.execute(columns.order_by(_Row.position, _Row.name, _Row.seed)).all()
        try:
            return [_STATE.validate_python(row._asdict()) for row in rows]
        except ValueError as error:
            raise ValueError(f'Invalid row in {self.url}: {error}') from error

    def settings(self) -> dict[str, str]:
        """Return the settings text of each run by name."""
        first = sa.select(_Row.name, sa.func.min(_Row.seed).label('seed')).group_by(_Row.name)
        of_first = first.subquery()
        rows = sa.select(_Row.name, _Row.settings).join(
            of_first, (_Row.name == of_first.c.name) & (_Row.seed == of_first.c.seed)
        )
        with self._session() as session:
            return {str(name): text for name, text in session.execute(rows)}

    def claim(self, run: RunState, worker: str, now: float) -> bool:
        """Claim a run for a worker.

        Args:
            run: State of the run, from :meth:`states`.
            worker: Name of the worker.
            now: Unix time.

        Returns:
            Whether it was claimed; false if the run has changed since ``run`` was read. Two workers
            never claim the same run.
        """
        return self._change(
            run,
            (_Row.state == run.state, _Row.worker.is_not_distinct_from(run.worker),
             _Row.heartbeat == run.heartbeat),
            state=RUNNING, worker=worker, heartbeat=run.heartbeat + 1, started=now, error=None,
        )  # fmt: skip

    def record_heartbeat(self, run: RunState, worker: str) -> bool:
        """Increment the heartbeat; false if the worker does not own the run any more."""
        return self._change(run, _owned_by(worker), heartbeat=_Row.heartbeat + 1)

    def finish(
        self,
        run: RunState,
        worker: str,
        result: bytes,
        seconds: float,
        summary: Mapping[str, bytes] | None = None,
    ) -> bool:
        """Store a result, and its summary in the same transaction.

        Args:
            run: State of the run.
            worker: Name of the worker.
            result: Result of :func:`~.serialization.serialize_result`.
            seconds: Duration of the run.
            summary: Result of :func:`~.summaries.summarize_result`. Default: computed when the
                suite is read.

        Returns:
            False, without effect, if the worker does not own the run any more.
        """
        row = sa.update(_Row).where(_Row.name == run.name, _Row.seed == run.seed)
        done = row.where(*_owned_by(worker)).values(
            state=DONE, result=result, seconds=seconds, error=None
        )
        if summary:
            self.has_summaries(create=True)
        with self._session() as session:
            if cast(sa.CursorResult, session.execute(done)).rowcount != 1:
                return False
            _replace_summary(session, run.name, run.seed, summary or {})
        return True

    def has_summaries(self, create: bool = False) -> bool:
        """Return whether the database has a table of summaries; earlier versions made none.

        Args:
            create: Create it first.
        """
        with self._explain_errors():
            if create:
                _Base.metadata.create_all(self.engine, [cast(sa.Table, _SummaryRow.__table__)])
            return sa.inspect(self.engine).has_table(_SummaryRow.__tablename__)

    def summaries(
        self, part: str, keys: Sequence[tuple[str, int]] | None = None
    ) -> dict[tuple[str, int], bytes]:
        """Return a part of the summaries by name and seed, for all runs or some.

        Args:
            part: Name of the part.
            keys: Names and seeds, at most a few hundred.
        """
        rows = sa.select(_SummaryRow.name, _SummaryRow.seed, _SummaryRow.content)
        rows = rows.where(_SummaryRow.part == part)
        if keys is not None:
            rows = rows.where(sa.tuple_(_SummaryRow.name, _SummaryRow.seed).in_(keys))
        with self._session() as session:
            return {(name, seed): content for name, seed, content in session.execute(rows)}

    def add_summaries(self, summaries: Mapping[tuple[str, int], Mapping[str, bytes]]) -> None:
        """Replace the summaries of some runs, by name and seed."""
        self.has_summaries(create=True)
        with self._session() as session:
            for (name, seed), summary in summaries.items():
                _replace_summary(session, name, seed, summary)

    def fail(self, run: RunState, worker: str, error: str) -> bool:
        """Record a failure; false if the worker does not own the run any more."""
        return self._change(run, _owned_by(worker), state=FAILED, error=error)

    def release(self, run: RunState, worker: str) -> bool:
        """Release an unfinished run, so that others can claim it."""
        return self._change(run, _owned_by(worker), state=WAITING, worker=None)

    def mark_blocked(self, run: RunState, error: str) -> bool:
        """Mark a waiting run as failed because its teacher failed."""
        return self._change(run, (_Row.state == WAITING,), state=FAILED, error=error)

    def retry_failed(self) -> int:
        """Reset failed runs to waiting; returns their number."""
        failed = sa.update(_Row).where(_Row.state == FAILED)
        return self._execute(failed.values(state=WAITING, worker=None, error=None))

    def results(self) -> Iterator[tuple[str, int, bytes]]:
        """Iterate over name, seed and result of all runs that are done."""
        with self._session() as session:
            keys = session.execute(sa.select(_Row.name, _Row.seed).where(_Row.state == DONE)).all()
        for name, seed in keys:
            yield name, seed, self.result(name, seed)

    def result(self, name: str, seed: int) -> bytes:
        """Return the result of a run; empty if it is not done."""
        row = sa.select(_Row.result).where(_Row.name == name, _Row.seed == seed)
        with self._session() as session:
            return session.execute(row).scalar_one() or b''

    def _change(self, run: RunState, conditions: Iterable[Any], **values: Any) -> bool:
        row = sa.update(_Row).where(_Row.name == run.name, _Row.seed == run.seed, *conditions)
        return self._execute(row.values(**values)) == 1

    def _execute(self, statement: sa.Update) -> int:
        """Execute an update in one transaction; returns the number of matched rows."""
        with self._session() as session:
            return cast(sa.CursorResult, session.execute(statement)).rowcount

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._explain_errors(), Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Re-raise database errors with advice."""
        try:
            yield
        except _DATABASE_ERRORS as error:
            reason = str(getattr(error, 'orig', None) or error)
            if isinstance(error, OperationalError) and 'locked' in reason:
                advice = 'Close the other program that has locked it, and resume'
            elif isinstance(error, OperationalError) and 'full' in reason:
                advice = 'Free some space and resume; finished runs are kept'
            elif isinstance(error, DatabaseError) and self.url.startswith('sqlite'):
                advice = (
                    'Move the file away and run the suite again: finished trainings are found in '
                    'their folders and only tested again'
                )
                if 'I/O' in reason:  # SQLite's error for a quota and a limit on file sizes
                    advice = f'Resume when disk, quota and limits allow it. If they do: {advice}'
            else:
                advice = 'Check the URL, the driver and your permissions'
            raise ValueError(
                f'Cannot access the database {self.url}: {reason}. {advice}'
            ) from error


def _owned_by(worker: str) -> tuple[Any, ...]:
    return (_Row.state == RUNNING, _Row.worker == worker)


def _replace_summary(session: Session, name: str, seed: int, summary: Mapping[str, bytes]) -> None:
    if not summary:
        return
    old = sa.delete(_SummaryRow).where(_SummaryRow.name == name, _SummaryRow.seed == seed)
    session.execute(old)
    rows = [dict(part=part, name=name, seed=seed, content=one) for part, one in summary.items()]
    session.execute(sa.insert(_SummaryRow), rows)
