"""Tables of a suite's database, and the state of a run."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import FiniteFloat, TypeAdapter
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mmkdml.experiments.run_spec import run_key


def _name(length: int) -> sa.String:
    # MySQL's default collations do not distinguish upper and lower case.
    of_mysql = mysql.VARCHAR(length, collation='utf8mb4_bin')
    return sa.String(length).with_variant(of_mysql, 'mysql', 'mariadb')


class Base(DeclarativeBase):
    """Base of the tables."""


class RunRow(Base):
    """State of a run, see :class:`RunState`, and its settings and result."""

    __tablename__ = 'runs'

    name: Mapped[str] = mapped_column(_name(200), primary_key=True)
    seed: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int]
    teacher: Mapped[str | None] = mapped_column(_name(200))
    settings: Mapped[str] = mapped_column(sa.Text)
    state: Mapped[str] = mapped_column(sa.String(10), index=True)
    worker: Mapped[str | None] = mapped_column(sa.String(200))
    heartbeat: Mapped[int] = mapped_column('beat', default=0)
    started: Mapped[float | None]
    seconds: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(sa.Text)
    result: Mapped[bytes | None] = mapped_column(sa.LargeBinary(1 << 30), deferred=True)


class SuiteRow(Base):
    """Name of a suite that uses the database."""

    __tablename__ = 'suites'

    name: Mapped[str] = mapped_column(_name(200), primary_key=True)


class SummaryRow(Base):
    """Part of a result in a form that is read faster, see :mod:`~.suites.summaries`."""

    __tablename__ = 'summaries'

    part: Mapped[str] = mapped_column(_name(40), primary_key=True)
    name: Mapped[str] = mapped_column(_name(200), primary_key=True)
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
        worker: Worker that claimed the run, ``<host>#<process id>.<token>``.
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


@dataclass(frozen=True)
class RunGroup:
    """Runs with the same name and state.

    Attributes:
        name: Name of the runs.
        state: Their state.
        runs: Number of runs.
        timed: Number of runs whose duration is known.
        seconds: Sum of these durations.
    """

    name: str
    state: str
    runs: int
    timed: int
    seconds: FiniteFloat


STATE = TypeAdapter(RunState)
GROUP = TypeAdapter(RunGroup)
