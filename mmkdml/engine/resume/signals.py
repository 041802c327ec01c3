"""Signals that request a stop, handled where a run can save its state."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, ClassVar

import torch
from mmengine.dist import all_reduce, is_distributed
from torch.utils.data import DataLoader

# A launcher forwards signals that the whole process group has already received.
ECHO_SECONDS = 2.0
#: Seconds after a signal in which a batch may still arrive, in a validation or in one of several
#: processes: these stop between batches if loading works.
PATIENCE_SECONDS = 10.0


class StopRequested(BaseException):
    """Raised where a run waits for a batch after a signal asked it to stop."""


class StopSignals:
    """Record SIGINT (Ctrl-C) and SIGTERM inside the block, instead of ending the process.

    A second one, more than :data:`ECHO_SECONDS` after the first, takes effect at once. Only the
    main thread of a process receives signals; in others nothing is recorded. Signals that are
    already ignored, such as Ctrl-C in a background job of a shell, stay ignored.
    """

    current: ClassVar[StopSignals | None] = None

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGINT, signal.SIGTERM)
                if signal.getsignal(number) is not signal.SIG_IGN
            }
        StopSignals.current = self
        return self

    def __exit__(self, *_: object) -> None:
        StopSignals.current = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> int:
        """Number of the signal that one of the run's processes got; 0 if none did.

        All processes must ask at the same step: they answer alike.
        """
        if not is_distributed():
            return self.number
        number = torch.tensor(self.number)
        all_reduce(number, 'max')
        return int(number)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal interrupt the block, even while it waits.

        Raises:
            StopRequested: If a signal requests a stop, or has done so before.
        """
        self._waiting = True
        try:
            if self.number:
                raise StopRequested
            yield
        finally:
            self._waiting = False

    def overdue(self) -> bool:
        """Return whether the first signal came more than :data:`PATIENCE_SECONDS` ago."""
        return bool(self.number) and time.monotonic() - self._since > PATIENCE_SECONDS

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._since = number, now
            if self._waiting:
                raise StopRequested
        elif now - self._since > ECHO_SECONDS:
            self.__exit__()
            signal.raise_signal(number)


def raise_if_overdue() -> None:
    """Stop waiting for a batch if a stop was requested some time ago.

    Raises:
        StopRequested: If :meth:`StopSignals.overdue`.
    """
    if StopSignals.current is not None and StopSignals.current.overdue():
        raise StopRequested


def disable_sigchld_handler() -> None:
    """Keeps PyTorch from raising an error amid whatever runs when a worker dies.

    In the middle of a step, weights would be half updated. A loader that waits for a batch looks
    every few seconds whether its workers live, and raises the error there.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, 'SIGCHLD'):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    # PyTorch sets it at the first use of workers, once in a process.
    if getattr(handler, '__module__', '').startswith('torch.'):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def shield_workers(loader: DataLoader) -> None:
    """Makes the workers of a data loader outlive the signals by which a run is stopped.

    A terminal, a scheduler or a launcher sends them to all processes of a run, but its main process
    decides when it ends, and ends its workers. Where the sender of a signal cannot be told (macOS,
    Windows), nothing is done.
    """
    if hasattr(signal, 'sigwaitinfo'):
        loader.worker_init_fn = partial(_start_shielded, loader.worker_init_fn)


def _start_shielded(start: Callable[[int], None] | None, worker: int) -> None:
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def follow_parent() -> None:
        while signal.sigwaitinfo(signals).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=follow_parent, daemon=True).start()
    if start is not None:
        start(worker)
