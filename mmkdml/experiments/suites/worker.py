"""Worker of a suite: claims a run, executes it in a subprocess and records its outcome."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmkdml.console import in_words
from mmkdml.experiments.run_spec import RunSpec, run_key
from mmkdml.experiments.suites.display import SuiteDisplay
from mmkdml.experiments.suites.processes import failure_reason, is_dead, stop_run, this_host
from mmkdml.experiments.suites.serialization import RESULT, deserialize_result
from mmkdml.experiments.suites.store import RunState, SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.experiments.suites.summaries import summarize_result
from mmkdml.files import own_file, write_atomically
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

LOG = 'run.log'
SPEC = 'run.json'
HEARTBEAT_SECONDS = 5.0
GRACE_SECONDS = 90.0
COMMAND = ('-m', 'mmkdml.experiments')
_numbers = itertools.count(1)


@dataclass(eq=False)
class Worker:
    """Executes runs of a suite until none is left; several machines can share one suite.

    A run whose worker is lost is claimed again: at once if the worker ran on this machine and its
    process has exited, otherwise after :data:`GRACE_SECONDS` without a heartbeat.

    Args:
        suite: The suite.
        store: Its database.
        stop: When set, the worker interrupts and releases its run, and ends.
        display: Prints when runs start and end.
        processes: Number of processes of each run, started by torchrun if more than one.
        environment: Additional environment variables of the runs.
        command: Arguments for Python, to which the path of the run's specification is appended.
        poll_seconds: Interval at which the run and the database are checked.
    """

    suite: Suite
    store: SuiteStore
    stop: threading.Event
    display: SuiteDisplay
    processes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str | Path] = field(default_factory=lambda: COMMAND)
    poll_seconds: float = 0.5

    def __post_init__(self) -> None:
        self.name = f'{this_host()}#{os.getpid()}.{next(_numbers)}'
        self._specs = {(run.name, run.seed): run for run in self.suite.runs}
        # Worker, heartbeat and time of its last change, by run.
        self._heartbeats: dict[str, tuple[str | None, int, float]] = {}
        self._is_waiting = False

    def work(self) -> None:
        """Execute runs until all are done or failed, or :attr:`stop` is set."""
        while not self.stop.is_set():
            run = self._claim_next()
            if run is not None:
                self._is_waiting = False
                self._execute(run)
            elif self._has_unfinished_runs():
                if not self._is_waiting and self._others_run():
                    self.display.line('waiting for runs claimed by other workers')
                self._is_waiting = True
                self.stop.wait(self.poll_seconds * 4)
            else:
                return

    def _others_run(self) -> bool:
        own = f'{this_host()}#{os.getpid()}.'
        return any(
            run.state == RUNNING and not (run.worker or '').startswith(own)
            for run in self.store.states()
        )

    def _has_unfinished_runs(self) -> bool:
        return any(
            run.state in (WAITING, RUNNING)
            for run in self.store.states()
            if (run.name, run.seed) in self._specs
        )

    def _claim_next(self) -> RunState | None:
        states = {(run.name, run.seed): run for run in self.store.states()}
        for key, run in states.items():
            if key not in self._specs:
                continue
            names = self._specs[key].teachers
            teachers = [states[name, run.seed] for name in names if (name, run.seed) in states]
            failed = next((one for one in teachers if one.state == FAILED), None)
            if run.state == WAITING and failed is not None:
                reason = f'its teacher {failed.key} failed'
                if self.store.mark_blocked(run, reason):
                    self.display.line(f'{run.key} failed: {reason}')
            elif run.state == WAITING and not all(map(self._is_ready, teachers)):
                continue
            elif (run.state == WAITING or self._is_lost(run)) and self.store.claim(
                run, self.name, time.time()
            ):
                return run
        return None

    def _is_ready(self, teacher: RunState) -> bool:
        # Machines may share only the database, without the folder of checkpoints.
        return teacher.state == DONE and (self.suite.work_dir / teacher.key).is_dir()

    def _is_lost(self, run: RunState) -> bool:
        """Return whether the worker of a running run is gone.

        Uses only the clock of this machine, because clocks of other machines may differ.
        """
        if run.state != RUNNING:
            return False
        if is_dead(run.worker):
            return True
        now = time.monotonic()
        worker, heartbeat, since = self._heartbeats.get(run.key, (None, -1, now))
        if (worker, heartbeat) != (run.worker, run.heartbeat):
            since = now
        self._heartbeats[run.key] = run.worker, run.heartbeat, since
        return now - since > GRACE_SECONDS

    def _execute(self, run: RunState) -> None:
        spec = self._specs[run.name, run.seed]
        folder = self.suite.work_dir / run.key
        start = time.monotonic()
        self.display.started()
        try:
            process, log_start = self._start(spec, folder)
        except OSError as error:
            self.store.fail(run, self.name, f'could not start: {error}')
            self.display.line(f'{run.key} failed: {error}')
            return
        is_own = False
        try:
            is_own = self._watch(process, run)
        finally:
            stop_run(process, gracefully=is_own)
        if not is_own:
            self.display.line(f'{run.key} was claimed by another worker')
        elif self.stop.is_set() and process.returncode != 0:
            self.store.release(run, self.name)
            self.display.line(f'{run.key} stopped; it can be resumed')
        else:
            self._record(run, folder, process.returncode, log_start, time.monotonic() - start)

    def _start(self, spec: RunSpec, folder: Path) -> tuple[subprocess.Popen, int]:
        folder.mkdir(parents=True, exist_ok=True)
        teachers = [
            name and str(self.suite.work_dir / run_key(name, spec.seed))
            for name in spec.fold_teachers or (spec.teacher,)
        ]
        content = asdict(spec) | dict(
            work_dir=str(folder),
            teacher_dir=teachers if spec.fold_teachers else teachers[0],
            registered=self.store.settings().get(spec.name),
        )
        write_atomically(folder / SPEC, json.dumps(content, indent=1).encode())
        (folder / RESULT).unlink(missing_ok=True)
        command = [sys.executable]
        if self.processes > 1:
            count = f'--nproc_per_node={self.processes}'
            command += ['-m', 'torch.distributed.run', '--standalone', count]
        command += [*map(str, self.command), str(folder / SPEC)]
        with own_file(folder, LOG).open('ab') as log:
            start = log.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,  # so that Ctrl-C reaches only the worker
            )
        return process, start

    def _watch(self, process: subprocess.Popen, run: RunState) -> bool:
        """Wait until a run ends; return False at once if another worker has claimed it."""
        last_heartbeat = time.monotonic()
        while process.poll() is None and not self.stop.is_set():
            if time.monotonic() - last_heartbeat > HEARTBEAT_SECONDS:
                if not self.store.record_heartbeat(run, self.name):
                    return False
                last_heartbeat = time.monotonic()
            self.stop.wait(self.poll_seconds)
        return True

    def _record(
        self, run: RunState, folder: Path, code: int, log_start: int, seconds: float
    ) -> None:
        error = None
        if code == 0:
            try:
                content = (folder / RESULT).read_bytes()
                parsed = deserialize_result(content)
            except (OSError, ValueError) as problem:
                error = f'{folder / RESULT}: {problem}'
        else:
            error = failure_reason(folder / LOG, log_start, code)
        if error is not None:
            # Log first: if the disk is full, storing the error may fail, too.
            self.display.line(f'{run.key} failed: {error.splitlines()[-1]} (log: {folder / LOG})')
            self.store.fail(run, self.name, error)
        elif self.store.finish(run, self.name, content, seconds, summarize_result(*parsed)):
            self.display.finished(run.key, parsed[0]['best'], in_words(seconds))
