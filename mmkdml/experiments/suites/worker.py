"""Works on a suite: takes a run, has it executed in a process of its own, records how it ended."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from mmkdml.experiments.suites.execute import RESULT
from mmkdml.experiments.suites.processes import end_run, is_dead, last_words, this_host
from mmkdml.experiments.suites.progress import in_words, progress
from mmkdml.experiments.suites.serialization import unpack_result
from mmkdml.experiments.suites.store import RunState, SuiteStore
from mmkdml.experiments.suites.suite import RunSpec, Suite, run_key
from mmkdml.files import own_file, write_atomically
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

LOG = 'run.log'
SPEC = 'run.json'
BEAT_SECONDS = 5.0
LOST_SECONDS = 90.0
_numbers = itertools.count(1)
COMMAND = ('-m', 'mmkdml.experiments')


class Worker:
    """Makes runs of a suite until none is left; several may work on one suite, anywhere.

    A run that another worker left behind is taken over: at once if that was a process of this
    machine which is gone, else when it has given no sign of life for :data:`LOST_SECONDS`.

    Args:
        suite: The suite.
        store: Its database.
        stop: When set, the run in work is given back and the worker ends.
        say: Gets a line whenever a run starts or ends.
        processes: Processes of each run, by torchrun if more than one.
        environment: Variables for the runs, beside those of this process.
        command: What Python is to do with the file that describes a run; :data:`COMMAND` by
            default.
        poll_seconds: How often to look what the run and the others do.
    """

    def __init__(
        self,
        suite: Suite,
        store: SuiteStore,
        stop: threading.Event,
        say: Callable[[str], None] = print,
        processes: int = 1,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str | Path] | None = None,
        poll_seconds: float = 0.5,
    ) -> None:
        self.suite = suite
        self.store = store
        self.stop = stop
        self.say = say
        self.processes = processes
        self.environment = dict(environment or {})
        self.command = tuple(map(str, command or COMMAND))
        self.poll_seconds = poll_seconds
        self.name = f'{this_host()}#{os.getpid()}.{next(_numbers)}'
        self._specs = {(run.name, run.seed): run for run in suite.runs}
        self._seen: dict[str, tuple[str | None, int, float]] = {}
        self._waits = False

    def work(self) -> None:
        """Makes runs until all are done or failed, or :attr:`stop` is set."""
        while not self.stop.is_set():
            run = self._take()
            if run is not None:
                self._waits = False
                self._make(run)
            elif self._left():
                if not self._waits:
                    self.say('waiting for runs that others make')
                self._waits = True
                self.stop.wait(self.poll_seconds * 4)
            else:
                return

    def _left(self) -> bool:
        return any(
            run.state in (WAITING, RUNNING)
            for run in self.store.states()
            if (run.name, run.seed) in self._specs
        )

    def _take(self) -> RunState | None:
        states = {(run.name, run.seed): run for run in self.store.states()}
        for key, run in states.items():
            if key not in self._specs:
                continue
            teacher = states.get((run.teacher or '', run.seed))
            if run.state == WAITING and teacher is not None and teacher.state == FAILED:
                self.store.block(run, f'its teacher {teacher.key} failed')
            elif run.state == WAITING and teacher is not None and not self._can_use(teacher):
                continue
            elif (run.state == WAITING or self._is_lost(run)) and self.store.take(
                run, self.name, time.time()
            ):
                return run
        return None

    def _can_use(self, teacher: RunState) -> bool:
        # On a machine that shares the database alone, the teacher's files may not be there.
        return teacher.state == DONE and (self.suite.work_dir / teacher.key).is_dir()

    def _is_lost(self, run: RunState) -> bool:
        """Whether nobody works on a run that is said to be running.

        Signs of life are counted and compared by this machine's clock alone: those of others may
        be wrong.
        """
        if run.state != RUNNING:
            return False
        if is_dead(run.worker):
            return True
        now = time.monotonic()
        worker, beat, since = self._seen.get(run.key, (None, -1, now))
        if (worker, beat) != (run.worker, run.beat):
            since = now
        self._seen[run.key] = run.worker, run.beat, since
        return now - since > LOST_SECONDS

    def _make(self, run: RunState) -> None:
        spec = self._specs[run.name, run.seed]
        folder = self.suite.work_dir / run.key
        begun = time.monotonic()
        self.say(f'{run.key} started')
        try:
            process, log_start = self._start(spec, folder)
        except OSError as error:
            self.store.fail(run, self.name, f'it could not be started: {error}')
            self.say(f'{run.key} failed: {error}')
            return
        owned = False
        try:
            owned = self._watch(process, run)
        finally:
            end_run(process, gently=owned)
        if not owned:
            self.say(f'{run.key} was taken over by another worker')
        elif self.stop.is_set() and process.returncode != 0:
            self.store.give_back(run, self.name)
            self.say(f'{run.key} stopped; it can be resumed')
        else:
            self._record(run, folder, process.returncode, log_start, time.monotonic() - begun)

    def _start(self, spec: RunSpec, folder: Path) -> tuple[subprocess.Popen, int]:
        folder.mkdir(parents=True, exist_ok=True)
        teacher = self.suite.work_dir / run_key(spec.teacher, spec.seed) if spec.teacher else None
        content = dataclasses.asdict(spec) | dict(
            work_dir=str(folder),
            teacher_dir=teacher and str(teacher),
            registered=self.store.settings().get(spec.name),
        )
        write_atomically(folder / SPEC, json.dumps(content, indent=1).encode())
        (folder / RESULT).unlink(missing_ok=True)
        command = [sys.executable]
        if self.processes > 1:
            count = f'--nproc_per_node={self.processes}'
            command += ['-m', 'torch.distributed.run', '--standalone', count]
        command += [*self.command, str(folder / SPEC)]
        with own_file(folder, LOG).open('ab') as log:
            start = log.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C is for the worker, which then ends the run
            )
        return process, start

    def _watch(self, process: subprocess.Popen, run: RunState) -> bool:
        """Waits for the end of a run; False as soon as it is another worker's."""
        last_beat = time.monotonic()
        while process.poll() is None and not self.stop.is_set():
            if time.monotonic() - last_beat > BEAT_SECONDS:
                if not self.store.beat(run, self.name):
                    return False
                last_beat = time.monotonic()
            self.stop.wait(self.poll_seconds)
        return True

    def _record(
        self, run: RunState, folder: Path, code: int, log_start: int, seconds: float
    ) -> None:
        error = None
        if code == 0:
            try:
                content = (folder / RESULT).read_bytes()
                unpack_result(content)
            except (OSError, ValueError) as problem:
                error = f'{folder / RESULT}: {problem}'
        else:
            error = last_words(folder / LOG, log_start, code)
        if error is not None:
            # Said first: a disk that is full for a run may be so for the database.
            self.say(f'{run.key} failed: {error.splitlines()[-1]} (all of it: {folder / LOG})')
            self.store.fail(run, self.name, error)
        elif self.store.finish(run, self.name, content, seconds):
            self.say(
                f'{run.key} done in {in_words(seconds)}; {progress(self.store.states(), idle=1)}'
            )


def work_together(
    suite: Suite, store: SuiteStore, workers: int = 1, processes: int = 1,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Lets several workers of this process make a suite's runs; Ctrl-C and SIGTERM stop them.

    Without ``OMP_NUM_THREADS`` the cores are divided among them, and so are the GPUs, if there is
    more than one and each run has one process.

    Args:
        suite: The suite.
        store: Its database.
        workers: How many runs at a time.
        processes: Processes of each run.
        say: Gets a line whenever a run starts or ends.

    Raises:
        KeyboardInterrupt: If they were stopped; what was in work can be resumed.
        ValueError: If the database cannot be used any more.
    """
    stop, errors = threading.Event(), []

    def work(environment: Mapping[str, str]) -> None:
        try:
            Worker(suite, store, stop, say, processes, environment).work()
        except BaseException as error:  # told by the main thread, when all have ended
            errors.append(error)
            stop.set()

    threads = [
        threading.Thread(target=work, args=(_share(index, workers, processes),))
        for index in range(workers)
    ]
    # Not by catching KeyboardInterrupt, which may come between any two steps of the waiting.
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if errors:
        raise errors[0]
    if stop.is_set():
        raise KeyboardInterrupt


def _share(index: int, workers: int, processes: int) -> dict[str, str]:
    share = {}
    if workers > 1 and 'OMP_NUM_THREADS' not in os.environ:
        share['OMP_NUM_THREADS'] = str(max((os.cpu_count() or 1) // workers, 1))
    gpus = torch.cuda.device_count()
    if workers > 1 and gpus > 1 and processes == 1 and 'CUDA_VISIBLE_DEVICES' not in os.environ:
        share['CUDA_VISIBLE_DEVICES'] = str(index % gpus)
    return share
