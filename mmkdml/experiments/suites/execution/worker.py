"""Worker of a suite: claims a run, executes it in a subprocess and records its outcome."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkdml.console import in_words
from mmkdml.experiments.database import UnavailableError
from mmkdml.experiments.suites.execution.attempt import (
    LOG,
    SPEC,
    attempt_of,
    has_result_of,
    read_attempt,
    write_attempt,
)
from mmkdml.experiments.suites.execution.display import SuiteDisplay
from mmkdml.experiments.suites.execution.processes import failure_reason, stop_run, this_host
from mmkdml.experiments.suites.execution.run_queue import RunQueue
from mmkdml.experiments.suites.serialization import RESULT, deserialize_result
from mmkdml.experiments.suites.store import RunState, SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.experiments.suites.summaries import summarize_result
from mmkdml.files import own_file

HEARTBEAT_SECONDS = 5.0
SIGNAL_SECONDS = 1.0
_FOLDER_SECONDS = 1.0
MAX_FAILURES = 3
COMMAND = ('-m', 'mmkdml.experiments')


class ConsecutiveFailuresError(ValueError):
    """A worker stopped because several runs in a row failed."""


class _Heartbeat:
    """Records heartbeats of a run in a thread, so that no database can block its worker.

    Attributes:
        is_lost: Whether another worker owns the run.
        error: Error of the database that ended the heartbeats.
    """

    def __init__(self, store: SuiteStore, run: RunState, worker: str) -> None:
        self._store, self._run, self._worker = store, run, worker
        self.is_lost = False
        self.error: Exception | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._record, daemon=True, name='heartbeat').start()

    def _record(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                if not self._store.record_heartbeat(self._run, self._worker):
                    self.is_lost = True
                    return
            except Exception as error:  # raised by the worker
                self.error = error
                return

    def end(self) -> None:
        """Record no more heartbeats."""
        self._ended.set()


@dataclass(eq=False)
class Worker:
    """Executes runs of a suite until none is left; several machines can share one suite.

    A run whose worker is lost is claimed again: at once if the worker ran on this machine and its
    process has exited, otherwise after :data:`~.run_queue.GRACE_SECONDS` without a heartbeat. If
    its result is in its folder, it is only recorded. An unavailable database is retried as
    :attr:`store` is configured; then the run is interrupted, and can be resumed.

    Args:
        suite: The suite.
        store: Its database.
        stop: When set, the worker interrupts and releases its run, and ends.
        display: Prints when runs start and end.
        processes: Number of processes of each run, started by torchrun if more than one.
        environment: Additional environment variables of the runs.
        max_failures: Number of runs that may fail in a row. The last one stops the worker and
            releases all of them for others, because this machine may be the cause. 0: no limit.
        command: Arguments for Python, to which the path of the run's specification is appended.
        poll_seconds: Interval at which the run and the database are checked.
    """

    suite: Suite
    store: SuiteStore
    stop: threading.Event
    display: SuiteDisplay
    processes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    max_failures: int = MAX_FAILURES
    command: Sequence[str | Path] = field(default_factory=lambda: COMMAND)
    poll_seconds: float = 0.5

    def __post_init__(self) -> None:
        self.name = f'{this_host()}#{os.getpid()}.{secrets.token_hex(6)}'
        self._queue = RunQueue(self.suite, self.store, self.name)
        self._failures: list[RunState] = []
        self._is_waiting = False

    def work(self) -> None:
        """Execute runs until all are done or failed, or :attr:`stop` is set.

        Raises:
            ConsecutiveFailuresError: After :attr:`max_failures` failures in a row.
            ValueError: If the database is not accessible.
        """
        while not self.stop.is_set():
            run, blocked = self._queue.claim_next()
            for one, reason in blocked:
                self.display.line(f'{one.key} failed: {reason}')
            if run is not None:
                self._is_waiting = False
                self._execute(run)
            elif self._queue.has_unfinished_runs():
                if not self._is_waiting and self._queue.others_run():
                    self.display.line('waiting for runs claimed by other workers')
                self._is_waiting = True
                self.stop.wait(self.poll_seconds * 4)
            else:
                return

    def _execute(self, run: RunState) -> None:
        spec = self._queue.specs[run.name, run.seed]
        folder = self.suite.work_dir / run.key
        self.display.started()
        settings = self.store.settings_of(spec.name)
        content = attempt_of(spec, self.suite.work_dir, settings, self.name)
        if has_result_of(run.worker, content, folder):
            write_attempt(folder, content)
            self.display.line(f'{run.key}: recording the result of an earlier worker')
            self._record(run, folder)
            return
        try:
            process, log_start = self._start(content, folder)
        except OSError as error:
            self._fail(run, f'could not start: {error}', str(error))
            return
        heartbeat = _Heartbeat(self.store, run, self.name)
        try:
            self._complete(run, folder, process, log_start, heartbeat)
        finally:
            heartbeat.end()

    def _complete(
        self,
        run: RunState,
        folder: Path,
        process: subprocess.Popen,
        log_start: int,
        heartbeat: _Heartbeat,
    ) -> None:
        start, is_own = time.monotonic(), True
        try:
            is_own = self._watch(process, heartbeat, folder)
        finally:
            stop_run(process, gracefully=is_own)
        if not is_own:
            self.display.line(f'{run.key} was claimed by another worker')
        elif process.returncode != 0 and self._is_stopped(process.returncode):
            self._release(run)
        elif process.returncode != 0:
            error = failure_reason(folder / LOG, log_start, process.returncode)
            self._fail(run, error, f'{error.splitlines()[-1]} (log: {folder / LOG})')
        else:
            self._record(run, folder, time.monotonic() - start)

    def _is_stopped(self, code: int) -> bool:
        # A scheduler sends SIGTERM to the processes of a job one after another.
        return self.stop.wait(SIGNAL_SECONDS if code == -signal.SIGTERM else 0)

    def _release(self, run: RunState) -> None:
        try:
            self.store.release(run, self.name)
        except UnavailableError:  # others find that the worker has exited
            self.display.note(f'{run.key} stopped; the database is unavailable')
        else:
            self.display.line(f'{run.key} stopped; it can be resumed')

    def _start(self, content: Mapping[str, Any], folder: Path) -> tuple[subprocess.Popen, int]:
        folder.mkdir(parents=True, exist_ok=True)
        # First, so that the result of an earlier attempt is never taken for that of this one.
        (folder / RESULT).unlink(missing_ok=True)
        write_attempt(folder, content)
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

    def _watch(self, process: subprocess.Popen, heartbeat: _Heartbeat, folder: Path) -> bool:
        """Wait until a run ends; return False at once if another worker has claimed it.

        Does not use the database, which may not answer.
        """
        last_check = time.monotonic()
        while process.poll() is None and not self.stop.is_set():
            if heartbeat.is_lost:
                return False
            if heartbeat.error is not None:
                raise heartbeat.error
            if time.monotonic() - last_check > _FOLDER_SECONDS:
                # Its new worker may reach the database when this one does not. Its process needs
                # the folder, which is locked, after some seconds.
                if read_attempt(folder).get('worker', self.name) != self.name:
                    return False
                last_check = time.monotonic()
            self.stop.wait(self.poll_seconds)
        return True

    def _record(self, run: RunState, folder: Path, seconds: float | None = None) -> None:
        """Record the result in a run's folder.

        Args:
            run: The run.
            folder: Its folder.
            seconds: Duration of the run. Default: that in the result.
        """
        try:
            content = (folder / RESULT).read_bytes()
            parsed = deserialize_result(content)
            measured, _, metadata = parsed
            seconds = float(metadata.get('seconds', 0)) if seconds is None else seconds
        except (OSError, TypeError, ValueError) as problem:
            self._fail(run, f'{folder / RESULT}: {problem}')
            return
        try:
            summary = summarize_result(*parsed)
            # The driver may insert all parts of the summary by one statement.
            largest = max(content, b''.join(summary.values()), key=len)
            if error_of_size := self.store.size_error(run, largest):
                self._fail(run, error_of_size)
                return
            is_recorded = self.store.finish(run, self.name, content, seconds, summary)
        except UnavailableError:
            self.display.note(f'{run.key} finished, but is not recorded yet: {folder / RESULT}')
            raise
        self._failures = []
        if is_recorded:
            self.display.finished(run.key, measured['best'], in_words(seconds))

    def _fail(self, run: RunState, error: str, line: str | None = None) -> None:
        """Record a failure.

        Raises:
            ConsecutiveFailuresError: After :attr:`max_failures` failures in a row.
        """
        # Log first: if the disk is full, storing the error may fail, too.
        last_line = line or error
        self.display.line(f'{run.key} failed: {last_line}')
        if not self.store.fail(run, self.name, error):
            return
        self._failures.append(run)
        if not 0 < self.max_failures <= len(self._failures):
            return
        self.store.release_failed(self._failures, self.name)
        keys = ', '.join(one.key for one in self._failures)
        raise ConsecutiveFailuresError(
            f'{len(self._failures)} runs in a row failed on {socket.gethostname()}: {keys}. The '
            f'last error: {last_line}. These runs wait for other workers. Fix the cause and '
            'resume, or allow more failures with --max-failures (0: any number)'
        )
