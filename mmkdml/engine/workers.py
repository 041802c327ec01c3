"""Data loaders that raise errors when workers hang or die."""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import multiprocessing.queues
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

try:
    import resource  # At the top, because importing needs a file handle.
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from mmengine.logging import print_log
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmkdml.engine.resume.signals import disable_sigchld_handler, raise_if_overdue

#: Seconds without any batch from any worker after which a loader with ``timeout=0`` fails.
DEFAULT_TIMEOUT = 1800.0
#: Seconds of waiting for a batch after which a warning is logged; doubles after each warning.
WARN_SECONDS = 60.0
# Interval in which a waiting loader checks its workers and signals.
_POLL_SECONDS = 1.0
# Workers that have sent nothing for this long may be stuck; they are killed on errors.
_STUCK_SECONDS = 5.0
_REPORT_BYTES = 4096
# Errors of PyTorch and Python when shared memory or file handles are exhausted.
_EXHAUSTED = re.compile(r'shared memory|too many open files|ancdata', re.IGNORECASE)
_ADVICE = (
    'Give the process more shared memory (docker run --shm-size=8g) or more file handles '
    '(ulimit -n 65536), use fewer workers or smaller batches, or load in the main process '
    '(train_dataloader.num_workers=0 train_dataloader.persistent_workers=False; likewise for '
    'val_dataloader and test_dataloader)'
)


class LoaderError(RuntimeError, OSError):
    """Error of data loader workers that do not start, exit, or make no progress.

    It is a ``RuntimeError``, as raised by PyTorch for lost workers, and an ``OSError``, because
    the operating system causes it; command line tools report it in one line.
    """


def watch_workers(loader: DataLoader) -> DataLoader:
    """Make a data loader raise an error when a worker fails or hangs, instead of waiting forever.

    A PyTorch worker without shared memory or file handles fails to send its batch and prints a
    traceback, while the main process waits forever. A watched loader raises :class:`LoaderError`
    with the cause: immediately if a worker fails, or after ``loader.timeout`` seconds (0:
    :data:`DEFAULT_TIMEOUT`) without a batch from any worker. It warns after :data:`WARN_SECONDS` of
    waiting, and stops waiting when a stop is requested.

    Args:
        loader: Data loader, changed in place unless it is a subclass of ``DataLoader``.

    Returns:
        The same loader.
    """
    if type(loader) is not DataLoader:
        return loader
    if not loader.num_workers:
        loader.timeout = 0  # PyTorch rejects a timeout without workers.
        return loader
    report = None
    if loader.multiprocessing_context is None and multiprocessing.get_start_method() == 'fork':
        report = mmap.mmap(-1, _REPORT_BYTES)  # Needs neither /dev/shm nor a file handle.
    loader.worker_init_fn = partial(_start_reporting, loader.worker_init_fn, report)
    loader.__class__ = _WatchedLoader
    vars(loader)['report'] = report
    return loader


def describe_resources() -> str:
    """Describe shared memory and open files of this process for error messages."""
    parts = []
    try:
        usage = shutil.disk_usage('/dev/shm')
        parts.append(f'/dev/shm has {usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MiB free')
    except OSError as error:
        parts.append(f'/dev/shm is not available ({error.strerror})')
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        opened = f'{limit}'
        with suppress(OSError):  # Listing needs a file handle, too.
            opened = f'{len(os.listdir("/dev/fd"))}'
        parts.append(f'this process has {opened} of at most {limit} files open')
    return '; '.join(parts)


class _WatchedLoader(DataLoader):
    report: mmap.mmap | None

    def _get_iterator(self) -> Any:
        self.check_worker_number_rationality()
        return _WatchedIterator(self)


class _WatchedIterator(_MultiProcessingDataLoaderIter):
    def __init__(self, loader: _WatchedLoader) -> None:
        self._report = loader.report
        if self._report is not None:
            self._report[:] = bytes(_REPORT_BYTES)
        self._shutdown = True  # Nothing to shut down until workers have started.
        try:
            super().__init__(loader)
        except OSError as error:
            raise LoaderError(
                f'Starting {self._num_workers} DataLoader workers failed: {error}. '
                f'{describe_resources()}. {_ADVICE}'
            ) from error
        disable_sigchld_handler()

    def _get_data(self) -> Any:
        start, limit = time.monotonic(), self._timeout or DEFAULT_TIMEOUT
        try:
            return self._wait(start, limit)
        except BaseException:
            if time.monotonic() - start > min(_STUCK_SECONDS, limit):
                for worker in self._workers:
                    worker.kill()
            raise

    def _wait(self, start: float, limit: float) -> Any:
        warn_after = WARN_SECONDS
        while True:
            try:
                success, data = self._try_get_data(min(_POLL_SECONDS, limit))
            except (OSError, RuntimeError, EOFError) as error:
                self._raise_lost(error)
            if success:
                return data
            raise_if_overdue()
            if self._pin_memory and not self._pin_memory_thread.is_alive():
                raise LoaderError(f'The pin memory thread ended. {describe_resources()}')
            waited = time.monotonic() - start
            busy = sorted({info[0] for info in self._task_info.values() if len(info) == 1})
            slow = ', '.join(f'{one} (pid {self._workers[one].pid})' for one in busy)
            if waited > warn_after:
                warn_after *= 2
                print_log(
                    f'waiting for {waited:.0f} s for a batch from DataLoader worker {slow}; '
                    f'giving up after {limit:g} s without a batch (timeout of the data loader)',
                    'current',
                    logging.WARNING,
                )
            if waited > limit:
                raise LoaderError(
                    f'DataLoader worker {slow}: expected a batch within {limit:g} s, got none from '
                    f'any worker in {waited:.0f} s. If loading is slow but healthy, increase '
                    'timeout of the data loader (in seconds); otherwise check that its files can '
                    f'be read (network drives), or try num_workers=0. {describe_resources()}'
                )

    def _raise_lost(self, error: Exception) -> NoReturn:
        """Raise an error with the cause of a lost batch."""
        for worker in self._workers:
            worker.join(0.1)  # A worker that closed its connection is about to exit.
        codes = {worker.pid: worker.exitcode for worker in self._workers if worker.exitcode}
        ended = '; '.join(f'pid {pid} {_ending(code)}' for pid, code in codes.items())
        text = (self._report[:] if self._report else b'').rstrip(b'\0').decode(errors='replace')
        lost = f'({ended}) exited unexpectedly' if ended else 'was lost while it sent a batch'
        exhausted = _EXHAUSTED.search(f'{text} {error} {ended}')
        advice = f'. {_ADVICE}' if exhausted else ''
        raise LoaderError(
            f'DataLoader worker {lost}: {text or error}. {describe_resources()}{advice}'
        ) from error

    def _process_data(self, data: Any, worker_id: int) -> Any:
        try:
            return super()._process_data(data, worker_id)
        except (OSError, RuntimeError) as error:  # Raised in the worker.
            if _EXHAUSTED.search(str(error)):
                last = str(error).strip().splitlines()[-1]
                raise LoaderError(
                    f'DataLoader worker {worker_id}: {last}. {describe_resources()}. {_ADVICE}'
                ) from error
            raise


def _ending(code: int) -> str:
    causes = {
        -signal.SIGKILL: 'often out of memory',
        -getattr(signal, 'SIGBUS', 0): 'the shared memory in /dev/shm is full',
    }
    if code >= 0:
        return f'ended with code {code}'
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f'signal {-code}'
    return f'was killed by {name}' + (f': {causes[code]}' if code in causes else '')


def _start_reporting(
    start: Callable[[int], None] | None, report: mmap.mmap | None, worker: int
) -> None:
    """Make a worker that fails to send a batch exit and write the cause to ``report``."""

    def leave(error: BaseException) -> None:
        text = f'{type(error).__name__}: {error} ({describe_resources()}, in the worker)'
        if report is None:
            print(text, file=sys.stderr, flush=True)
        else:
            content = text.encode()[:_REPORT_BYTES]
            report[:] = content.ljust(_REPORT_BYTES, b'\0')
        os._exit(1)

    def leave_without_handles(kind: Any, error: BaseException, trace: Any) -> None:
        # The thread that sends file handles would otherwise fail repeatedly.
        if isinstance(error, OSError) and _EXHAUSTED.search(str(error)):
            leave(error)
        sys.__excepthook__(kind, error, trace)

    # Called in the thread that sends batches, where the batch would be lost silently.
    queue: Any = multiprocessing.queues.Queue
    queue._on_queue_feeder_error = staticmethod(lambda error, _: leave(error))
    sys.excepthook = leave_without_handles
    if start is not None:
        start(worker)
