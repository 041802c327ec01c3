"""Where the state of a suite lives: one row for each run, in any database SQLAlchemy can reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import FiniteFloat, TypeAdapter
from sqlalchemy import (
    CursorResult,
    LargeBinary,
    String,
    Text,
    Update,
    create_engine,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mmkdml.apis.run_settings import difference, records_data
from mmkdml.experiments.suites.suite import RunSpec, run_key
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

DATABASE = 'suite.db'
LOCK_SECONDS = 60.0
# Also of a driver that is missing, a URL that is none and values that no suite wrote.
_REFUSALS = (SQLAlchemyError, ImportError, MemoryError, OverflowError, TypeError, ValueError)


class _Base(DeclarativeBase):
    pass


class _Row(_Base):
    __tablename__ = 'runs'

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    seed: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int]
    teacher: Mapped[str | None] = mapped_column(String(200))
    settings: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), index=True)
    worker: Mapped[str | None] = mapped_column(String(200))
    beat: Mapped[int] = mapped_column(default=0)
    started: Mapped[float | None]
    seconds: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[bytes | None] = mapped_column(LargeBinary(1 << 30), deferred=True)


@dataclass(frozen=True)
class RunState:
    """What the database says of a run, without its result.

    Attributes:
        name: Name of the run.
        seed: Its seed.
        teacher: Name of the run it waits for, if any.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        worker: Who runs it: ``<host>#<process id>.<number>``.
        beat: Counts up as long as the worker lives.
        started: Unix time at which the worker took it, by the worker's clock.
        seconds: How long it took, if done.
        error: Why it failed, if it did.
    """

    name: str
    seed: int
    teacher: str | None
    state: str
    worker: str | None
    beat: int
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
        url: SQLAlchemy's URL of a database; of a file of SQLite's: ``sqlite:///path/suite.db``.
        lock_seconds: How long to wait for another process's transaction in SQLite.

    Raises:
        ValueError: Here and in every method, if the database cannot be opened, is locked by
            another program, is corrupt or cannot be written to.
    """

    def __init__(self, url: str, lock_seconds: float = LOCK_SECONDS) -> None:
        self.url = url
        options = {'connect_args': {'timeout': lock_seconds}} if url.startswith('sqlite') else {}
        with self._told():
            self.engine = create_engine(url, **options)
            try:
                _Base.metadata.create_all(self.engine)
            except OperationalError:  # another worker has made them between the look and the act
                _Base.metadata.create_all(self.engine)

    @classmethod
    def in_folder(cls, work_dir: str | Path, create: bool = True) -> SuiteStore:
        """The SQLite database in a suite's folder.

        Args:
            work_dir: The folder.
            create: Make it if it is not there.

        Raises:
            FileNotFoundError: If it is not there and ``create`` is not set.
        """
        path = Path(work_dir) / DATABASE
        if not create and not path.is_file():
            raise FileNotFoundError(
                f'{work_dir} holds no {DATABASE}: the suite was not started there. Start it with '
                'tools/suite.py run, or name its folder with --work-dir'
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f'sqlite:///{path}')

    def register(self, runs: Sequence[RunSpec], settings: Mapping[str, str]) -> int:
        """Adds the runs that are not there yet.

        Args:
            runs: All runs of the suite.
            settings: For each run's name, the text of its settings.

        Returns:
            How many were added.

        Raises:
            ValueError: If a run is there with other settings or data; names which differ.
        """
        with self._session() as session:
            columns = select(_Row.name, _Row.seed, _Row.settings)
            known = {(name, seed): text for name, seed, text in session.execute(columns)}
        for run in runs:
            now = settings[run.name]
            before = known.get((run.name, run.seed), now)
            if changes := difference(before, now):
                raise ValueError(
                    f'{run.key} was started with other settings in {self.url}:\n{changes}\nUndo '
                    'the change, or choose another folder with --work-dir'
                )
            if before != now and records_data(now):  # of an earlier version, or without data
                row = update(_Row).where(_Row.name == run.name, _Row.seed == run.seed)
                self._changed(row.values(settings=now))
        new = [
            _Row(name=run.name, seed=run.seed, position=position, teacher=run.teacher,
                 settings=settings[run.name], state=WAITING)
            for position, run in enumerate(runs)
            if (run.name, run.seed) not in known
        ]  # fmt: skip
        added = len(new)
        try:
            with Session(self.engine) as session, session.begin():
                session.add_all(new)
        except IntegrityError:  # another worker has added them meanwhile
            return self.register(runs, settings)
        return added

    def states(self) -> list[RunState]:
        """All runs, in the suite's order."""
        with self._session() as session:
            rows = session.scalars(select(_Row).order_by(_Row.position, _Row.name, _Row.seed))
            fields = RunState.__dataclass_fields__
            states = [{name: getattr(row, name) for name in fields} for row in rows]
        try:
            return [_STATE.validate_python(state) for state in states]
        except ValueError as error:
            raise ValueError(f'{self.url} holds a row that no suite wrote: {error}') from error

    def settings(self) -> dict[str, str]:
        """The text of the settings of each run, by its name."""
        with self._session() as session:
            rows = session.execute(select(_Row.name, _Row.settings).distinct())
            return {str(name): text for name, text in rows}

    def take(self, run: RunState, worker: str, now: float) -> bool:
        """Gives a run to a worker, if it is still as ``run`` says; two never get the same.

        Args:
            run: The run, as :meth:`states` told it.
            worker: Who takes it.
            now: Unix time.
        """
        return self._change(
            run,
            (_Row.state == run.state, _Row.worker.is_not_distinct_from(run.worker),
             _Row.beat == run.beat),
            state=RUNNING, worker=worker, beat=run.beat + 1, started=now, error=None,
        )  # fmt: skip

    def beat(self, run: RunState, worker: str) -> bool:
        """Says that the worker lives; False if the run is not its own any more."""
        return self._change(run, _owned(worker), beat=_Row.beat + 1)

    def finish(self, run: RunState, worker: str, result: bytes, seconds: float) -> bool:
        """Keeps a result; False, and nothing kept, if the run is not the worker's any more."""
        return self._change(
            run, _owned(worker), state=DONE, result=result, seconds=seconds, error=None
        )

    def fail(self, run: RunState, worker: str, error: str) -> bool:
        """Records an error; False if the run is not the worker's any more."""
        return self._change(run, _owned(worker), state=FAILED, error=error)

    def give_back(self, run: RunState, worker: str) -> bool:
        """Lets others take a run that was not finished."""
        return self._change(run, _owned(worker), state=WAITING, worker=None)

    def block(self, run: RunState, error: str) -> bool:
        """Records that a waiting run cannot be made."""
        return self._change(run, (_Row.state == WAITING,), state=FAILED, error=error)

    def retry_failed(self) -> int:
        """Lets failed runs wait again; returns how many."""
        failed = update(_Row).where(_Row.state == FAILED)
        return self._changed(failed.values(state=WAITING, worker=None, error=None))

    def results(self) -> Iterator[tuple[str, int, bytes]]:
        """Name, seed and result of each run that is done, one at a time."""
        with self._session() as session:
            keys = session.execute(select(_Row.name, _Row.seed).where(_Row.state == DONE)).all()
        for name, seed in keys:
            with self._session() as session:
                row = session.execute(
                    select(_Row.result).where(_Row.name == name, _Row.seed == seed)
                ).scalar_one()
            yield name, seed, row or b''

    def _change(self, run: RunState, conditions: Iterable[Any], **values: Any) -> bool:
        its = update(_Row).where(_Row.name == run.name, _Row.seed == run.seed, *conditions)
        return self._changed(its.values(**values)) == 1

    def _changed(self, statement: Update) -> int:
        """Executes a change in one transaction; returns the number of rows it met."""
        with self._session() as session:
            return cast(CursorResult, session.execute(statement)).rowcount

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._told(), Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tells what a database refuses in words a user can act on."""
        try:
            yield
        except _REFUSALS as error:
            reason = str(getattr(error, 'orig', None) or error)
            if isinstance(error, OperationalError) and 'locked' in reason:
                advice = 'another program holds it; close that program and resume'
            elif isinstance(error, OperationalError) and 'full' in reason:
                advice = 'free some space and resume; what was finished before is kept'
            elif isinstance(error, DatabaseError) and self.url.startswith('sqlite'):
                advice = (
                    'move the file away and run the suite again: trainings that are complete '
                    'are found in their folders and only tested anew'
                )
                if 'I/O' in reason:  # so SQLite calls a quota, and a limit on the size of files
                    advice = f'resume when disk, quota and limits allow more; if they do, {advice}'
            else:
                advice = 'check the URL, the driver and your rights'
            raise ValueError(
                f'the database {self.url} cannot be used ({reason}): {advice}'
            ) from error


def _owned(worker: str) -> tuple[Any, ...]:
    return (_Row.state == RUNNING, _Row.worker == worker)
