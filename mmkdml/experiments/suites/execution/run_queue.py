"""Choice of the next run of a worker: order, teachers, failed teachers and lost workers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mmkdml.experiments.run_spec import RunSpec, run_key
from mmkdml.experiments.suites.execution.processes import is_dead, this_host
from mmkdml.experiments.suites.store import BLOCKED, RunState, SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

GRACE_SECONDS = 90.0
# Of a suite with as many runs or fewer in a database, such as a task of Ray, only these are read.
_FEW = 200


class RunQueue:
    """Runs of a suite that a worker may claim, in the order of the suite.

    Args:
        suite: The suite.
        store: Its database, which may also hold other runs.
        worker: Name of the worker.
    """

    def __init__(self, suite: Suite, store: SuiteStore, worker: str) -> None:
        self._suite, self._store, self._worker = suite, store, worker
        self.specs: Mapping[tuple[str, int], RunSpec] = {
            (run.name, run.seed): run for run in suite.runs
        }
        self._keys = list(self.specs) if len(self.specs) <= _FEW else None
        # Worker, heartbeat and time of its last change, by run.
        self._heartbeats: dict[str, tuple[str | None, int, float]] = {}
        self._last_read: float | None = None

    def claim_next(self) -> tuple[RunState | None, list[tuple[RunState, str]]]:
        """Claim the first run whose teachers are done, or whose worker is lost.

        Waiting runs before it are marked as failed if a teacher failed.

        Returns:
            The run, None if there is none; and the runs that were marked, with the reason.
        """
        blocked: list[tuple[RunState, str]] = []
        for page in self._store.claimable(self._keys):
            self._note_read()
            runs = [run for run in page if (run.name, run.seed) in self.specs]
            states = self._store.states_of(
                {key for run in runs if run.state == WAITING for key in self._teachers(run)}
            )
            for run in runs:
                teachers = [key for key in self._teachers(run) if key in states]
                failed = next((key for key in teachers if states[key] == FAILED), None)
                if run.state == WAITING and failed is not None:
                    reason = f'{BLOCKED}{run_key(*failed)} failed'
                    if self._store.mark_blocked(run, reason):
                        blocked.append((run, reason))
                elif run.state == WAITING and not all(
                    states[key] == DONE and self._has_folder(key) for key in teachers
                ):
                    continue
                elif (run.state == WAITING or self._is_lost(run)) and self._store.claim(
                    run, self._worker, time.time()
                ):
                    return run, blocked
        return None, blocked

    def has_unfinished_runs(self) -> bool:
        """Return whether a run of the suite is waiting or running."""
        return any(key in self.specs for key in self._store.unfinished(self._keys))

    def others_run(self) -> bool:
        """Return whether workers of other processes execute runs."""
        own = f'{this_host()}#{os.getpid()}.'
        workers = self._store.running_workers()
        return any(not (worker or '').startswith(own) for worker in workers)

    def _teachers(self, run: RunState) -> list[tuple[str, int]]:
        return [(name, run.seed) for name in self.specs[run.name, run.seed].teachers]

    def _has_folder(self, key: tuple[str, int]) -> bool:
        # Machines may share only the database, without the folder of checkpoints.
        return (self._suite.work_dir / run_key(*key)).is_dir()

    def _note_read(self) -> None:
        now = time.monotonic()
        # Others may have been unable to record heartbeats while this worker could not read them.
        if self._last_read is not None and now - self._last_read > GRACE_SECONDS / 3:
            self._heartbeats.clear()
        self._last_read = now

    def _is_lost(self, run: RunState) -> bool:
        """Return whether the worker of a running run is gone.

        Uses only the clock of this machine, because clocks of other machines may differ.
        """
        if run.state != RUNNING:
            return False
        # The own name: the confirmation of the claim was lost.
        if run.worker == self._worker or is_dead(run.worker):
            return True
        now = time.monotonic()
        worker, heartbeat, since = self._heartbeats.get(run.key, (None, -1, now))
        if (worker, heartbeat) != (run.worker, run.heartbeat):
            since = now
        self._heartbeats[run.key] = run.worker, run.heartbeat, since
        return now - since > GRACE_SECONDS
