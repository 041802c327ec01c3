"""Execution of a suite with one or more workers on this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch

from mmkdml.experiments.database import UnavailableError
from mmkdml.experiments.run_spec import run_config, settings_text
from mmkdml.experiments.suites.execution.display import SuiteDisplay
from mmkdml.experiments.suites.execution.fold_data import check_folds
from mmkdml.experiments.suites.execution.missing_data import DataCheck
from mmkdml.experiments.suites.execution.worker import (
    MAX_FAILURES,
    ConsecutiveFailuresError,
    Worker,
)
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.statistics.records import RUNNING, WAITING

_JOIN_SECONDS = 0.2


def run_suite(
    suite: Suite,
    store: SuiteStore,
    workers: int = 1,
    processes: int = 1,
    retry: bool = False,
    max_failures: int = MAX_FAILURES,
) -> None:
    """Execute the waiting runs of a suite until all are done or failed.

    The workers share the CPU cores equally unless ``OMP_NUM_THREADS`` is set, and take turns on the
    GPUs if each run has one process, unless ``CUDA_VISIBLE_DEVICES`` is set.

    Args:
        suite: The suite.
        store: Its database.
        workers: Number of concurrent runs.
        processes: Number of processes of each run.
        retry: Also execute failed runs of this suite again.
        max_failures: Number of failures in a row that stop a worker; 0 for no limit.

    Raises:
        KeyboardInterrupt: If SIGINT (Ctrl-C) or SIGTERM stopped the workers. Interrupted runs can
            be resumed.
        FileNotFoundError: If data of a waiting run do not exist.
        ValueError: If a config is invalid, its data do not have the folds of the suite, the suite
            was started with other settings, the database is not accessible or holds another
            suite, or a worker stopped after several failures in a row.
    """
    register_suite(suite, store, retry)
    run_workers(suite, store, workers, processes, max_failures=max_failures)


def register_suite(suite: Suite, store: SuiteStore, retry: bool = False) -> None:
    """Check the configs of a suite, and add its runs to the database.

    Args:
        suite: The suite.
        store: Its database.
        retry: Also reset failed runs of this suite to waiting.

    Raises:
        FileNotFoundError: As :func:`run_suite`, which begins with it.
        ValueError: As :func:`run_suite`.
    """
    settings: dict[str, str] = {}
    data = DataCheck(suite.runs, store, retry, suite.folds)
    for run in suite.runs:
        if run.name not in settings:  # all seeds have the same settings
            config = run_config(run)
            if suite.folds is not None:
                check_folds(config, suite.folds)
            settings[run.name] = settings_text(config)
            data.add(run.name, config)
    data.check()
    store.register(suite.runs, settings, suite.name)
    if retry:
        store.retry_failed(suite.runs)


def run_workers(
    suite: Suite,
    store: SuiteStore,
    workers: int = 1,
    processes: int = 1,
    log: Callable[[str], None] | None = None,
    max_failures: int = MAX_FAILURES,
) -> None:
    """Execute the registered runs of a suite.

    Args:
        suite: The suite.
        store: Its database.
        workers: Number of concurrent runs.
        processes: Number of processes of each run.
        log: Prints a line. Default: the console, with a header and a live bar on a terminal.
        max_failures: Number of failures in a row that stop a worker; 0 for no limit.

    Raises:
        KeyboardInterrupt: If a signal stopped the workers.
        ValueError: If the database is not accessible, or a worker stopped after failures.
    """
    stop = threading.Event()
    errors: list[BaseException] = []
    signals: list[int] = []
    display = SuiteDisplay(suite, store, log)
    store.database.stop, store.database.log = stop, display.note
    counts = store.counts()
    has_bar = counts[WAITING] + counts[RUNNING] > 0 and log is None

    def work(environment: Mapping[str, str]) -> None:
        try:
            Worker(suite, store, stop, display, processes, environment, max_failures).work()
        except ConsecutiveFailuresError as error:  # the other workers continue
            errors.append(error)
        except BaseException as error:  # re-raised below, when all workers have ended
            errors.append(error)
            stop.set()

    threads = [
        threading.Thread(target=work, args=(_environment(index, workers, processes),))
        for index in range(workers)
    ]

    def interrupt(number: int, _: object) -> None:
        signals.append(number)
        stop.set()

    # A KeyboardInterrupt could be raised at any point of `join`, so it is not used.
    handlers = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with display if has_bar else nullcontext():
            for thread in threads:
                thread.start()
            # Ray interrupts tasks without a signal, which would not end a join without time-out.
            for thread in threads:
                while thread.is_alive():
                    thread.join(_JOIN_SECONDS)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        store.database.stop = threading.Event()
    # A stopped worker does not wait for a database that is unavailable.
    if errors and not (signals and isinstance(errors[0], UnavailableError)):
        raise errors[0]
    if signals:
        raise KeyboardInterrupt


def _environment(index: int, workers: int, processes: int) -> dict[str, str]:
    """Return a worker's share of CPU cores and GPUs as environment variables."""
    share = {}
    if workers > 1 and 'OMP_NUM_THREADS' not in os.environ:
        share['OMP_NUM_THREADS'] = str(max((os.cpu_count() or 1) // workers, 1))
    gpus = torch.cuda.device_count()
    if workers > 1 and gpus > 1 and processes == 1 and 'CUDA_VISIBLE_DEVICES' not in os.environ:
        share['CUDA_VISIBLE_DEVICES'] = str(index % gpus)
    return share
