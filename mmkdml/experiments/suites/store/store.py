"""States and results of a suite in its database: claims, heartbeats, results and failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mmkdml.apis.run.settings import other_settings_error
from mmkdml.commands import tool_command
from mmkdml.experiments.run_spec import RunSpec, has_data_hashes, settings_changes
from mmkdml.experiments.suites.store.mysql_limits import MySQLLimits
from mmkdml.experiments.suites.store.rows import RunRow, RunState, SuiteRow, SummaryRow
from mmkdml.experiments.suites.store.summaries import replace_summary
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

DATABASE = 'suite.db'
BLOCKED = 'its teacher '  # beginning of the error of a run whose teacher failed
# The last lines of a log may contain long progress bars; MySQL's TEXT has 64 KiB.
_ERROR_CHARACTERS = 10_000


class SuiteStore(MySQLLimits):
    """State and results of a suite's runs. Each change is one transaction.

    Args:
        url: SQLAlchemy URL of the database, e.g. ``sqlite:///path/suite.db``.
        lock_seconds: Time to wait for a lock of SQLite.
        retry_seconds: Duration of the retries while the database is unavailable.
        log: Prints a line when the connection is lost and when it is back.

    Attributes:
        url: The URL without its password, for messages.
        database: Retries and their limits.

    Raises:
        ValueError: From the constructor and all methods, if the database is not accessible, locked
            by another program, corrupt or read-only.
    """

    @classmethod
    def in_folder(
        cls, work_dir: str | Path, create: bool = True, retry_seconds: float = 0
    ) -> SuiteStore:
        """Open the SQLite database in a suite's folder.

        Args:
            work_dir: The folder.
            create: Create the database if it does not exist.
            retry_seconds: Duration of the retries while another program has locked it.

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
        return cls(f'sqlite:///{path}', retry_seconds=retry_seconds)

    def check_suite(self, name: str, runs: Sequence[RunSpec]) -> None:
        """Check that the database does not hold another suite.

        Args:
            name: Name of the suite.
            runs: Its runs. A suite that shares some of them may continue the database.

        Raises:
            ValueError: If it does.
        """

        def stored(session: Session) -> tuple[Sequence[str], set[tuple[str, int]]]:
            has_names = sa.inspect(session.connection()).has_table(SuiteRow.__tablename__)
            names = session.scalars(sa.select(SuiteRow.name)).all() if has_names else ()
            keys = session.execute(sa.select(RunRow.name, RunRow.seed))
            return names, {(run, seed) for run, seed in keys}

        names, keys = self._transaction(stored)
        # Suites may share runs: `register` compares their settings.
        own = {(run.name, run.seed) for run in runs}
        if keys and name not in names and keys.isdisjoint(own):
            held = ', '.join(names) or f'the runs {", ".join(sorted({run for run, _ in keys})[:3])}'
            raise ValueError(
                f'Invalid database {self.url}: expected that of the suite {name}, got one with '
                f'{held}. Choose another folder (--work-dir) or database (--storage) for each suite'
            )

    def register(
        self, runs: Sequence[RunSpec], settings: Mapping[str, str], suite: str | None = None
    ) -> int:
        """Add runs that are not in the database yet.

        Args:
            runs: All runs of the suite.
            settings: Settings text of each run by name.
            suite: Name of the suite, for :meth:`check_suite`.

        Returns:
            Number of added runs.

        Raises:
            ValueError: If a run is in the database with other settings or data; lists the
                differences. If the database holds another suite, or names differ only in case in a
                database of MySQL from an earlier version.
        """
        if suite is not None:
            self._create_table(SuiteRow)
            self.check_suite(suite, runs)
            self._add(lambda session: session.merge(SuiteRow(name=suite)))
        columns = sa.select(RunRow.name, RunRow.seed, RunRow.settings)
        rows = self._transaction(lambda session: session.execute(columns).all())
        known = {(name, seed): text for name, seed, text in rows}
        self._check_case({name for name, _ in known} | {run.name for run in runs})
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
                row = sa.update(RunRow).where(RunRow.name == run.name, RunRow.seed == run.seed)
                self._execute(row.values(settings=now))
        new = [
            dict(name=run.name, seed=run.seed, position=position, teacher=run.teacher,
                 settings=settings[run.name], state=WAITING)
            for position, run in enumerate(runs)
            if (run.name, run.seed) not in known
        ]  # fmt: skip
        if self._add(lambda session: session.add_all(RunRow(**row) for row in new)):
            return len(new)
        return self.register(runs, settings)

    def claim(self, run: RunState, worker: str, now: float) -> bool:
        """Claim a run for a worker.

        Args:
            run: State of the run, from :meth:`states`.
            worker: Name of the worker.
            now: Unix time.

        Returns:
            Whether it was claimed; false if the run has changed since ``run`` was read. Two workers
            never claim the same run. After a lost connection it may be claimed nevertheless: then
            its worker is the own one when it is read again.
        """
        return self._change(
            run,
            (RunRow.state == run.state, RunRow.worker.is_not_distinct_from(run.worker),
             RunRow.heartbeat == run.heartbeat),
            state=RUNNING, worker=worker, heartbeat=run.heartbeat + 1, started=now, error=None,
        )  # fmt: skip

    def record_heartbeat(self, run: RunState, worker: str) -> bool:
        """Increment the heartbeat; false if the worker does not own the run any more."""
        return self._change(run, _owned_by(worker), heartbeat=RunRow.heartbeat + 1)

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
            False, without effect, if another worker owns the run.
        """
        row = sa.update(RunRow).where(RunRow.name == run.name, RunRow.seed == run.seed)
        done = row.where(*_owned_by(worker)).values(
            state=DONE, result=result, seconds=seconds, error=None
        )
        if summary:
            self._create_table(SummaryRow)

        def store(session: Session) -> bool:
            if cast(sa.CursorResult, session.execute(done)).rowcount != 1:
                return False
            replace_summary(session, run.name, run.seed, summary or {})
            return True

        return self._transaction(store) or self._is_in_state(run, worker, DONE)

    def fail(self, run: RunState, worker: str, error: str) -> bool:
        """Record a failure; false if the worker does not own the run any more."""
        text = error.replace('\0', '')[-_ERROR_CHARACTERS:]  # PostgreSQL stores no NUL
        return self._change(run, _owned_by(worker), state=FAILED, error=text) or self._is_in_state(
            run, worker, FAILED
        )

    def _is_in_state(self, run: RunState, worker: str, state: str) -> bool:
        """Return whether an earlier attempt, whose confirmation was lost, was successful."""
        row = sa.select(RunRow.state, RunRow.worker).where(
            RunRow.name == run.name, RunRow.seed == run.seed
        )
        found = self._transaction(lambda session: session.execute(row).one())
        return tuple(found) == (state, worker)

    def release(self, run: RunState, worker: str) -> bool:
        """Release an unfinished run, so that others can claim it."""
        return self._change(run, _owned_by(worker), state=WAITING, worker=None)

    def mark_blocked(self, run: RunState, error: str) -> bool:
        """Mark a waiting run as failed because its teacher failed."""
        return self._change(run, (RunRow.state == WAITING,), state=FAILED, error=error)

    def retry_failed(self, runs: Iterable[RunSpec] | None = None) -> int:
        """Reset failed runs to waiting.

        Args:
            runs: Runs of the suite. Default: all.

        Returns:
            Number of runs that were reset.
        """
        keys = None if runs is None else {(run.name, run.seed) for run in runs}
        failed = [
            run
            for run in self.states()
            if run.state == FAILED and (keys is None or (run.name, run.seed) in keys)
        ]
        for run in failed:
            self._change(run, (RunRow.state == FAILED,), state=WAITING, error=None)
        return len(failed)

    def release_failed(self, runs: Sequence[RunState], worker: str) -> None:
        """Release runs that failed because of their machine, and those that need them.

        Their errors are kept until a worker claims them.
        """
        for run in runs:
            own = (RunRow.state == FAILED, RunRow.worker == worker)
            self._change(run, own, state=WAITING)
        # If their teachers stay failed, the next worker marks them again.
        blocked = sa.update(RunRow).where(RunRow.state == FAILED, RunRow.error.startswith(BLOCKED))
        self._execute(blocked.values(state=WAITING, error=None))

    def results(self) -> Iterator[tuple[str, int, bytes]]:
        """Iterate over name, seed and result of all runs that are done."""
        done = sa.select(RunRow.name, RunRow.seed).where(RunRow.state == DONE)
        for name, seed in self._transaction(lambda session: session.execute(done).all()):
            yield name, seed, self.result(name, seed)

    def result(self, name: str, seed: int) -> bytes:
        """Return the result of a run; empty if it is not done."""
        row = sa.select(RunRow.result).where(RunRow.name == name, RunRow.seed == seed)
        return self._transaction(lambda session: session.execute(row).scalar_one()) or b''

    def _change(self, run: RunState, conditions: Iterable[Any], **values: Any) -> bool:
        row = sa.update(RunRow).where(RunRow.name == run.name, RunRow.seed == run.seed, *conditions)
        return self._execute(row.values(**values)) == 1


def _owned_by(worker: str) -> tuple[Any, ...]:
    return (RunRow.state == RUNNING, RunRow.worker == worker)
