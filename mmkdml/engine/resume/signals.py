"""Stop requests by signals, handled where a run can save its state."""

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

# Within this time, a launcher forwards a signal that its process group already received.
ECHO_SECONDS = 2.0
#: Seconds after a stop request before a run stops waiting for a batch, in a validation or with
#: several processes. They normally stop between batches.
PATIENCE_SECONDS = 10.0


class StopRequested(BaseException):
    """Raised when a run that was requested to stop waits for a batch."""


class StopSignals:
    """Context manager that records SIGINT (Ctrl-C) and SIGTERM instead of ending the process.

    A second signal, more than :data:`ECHO_SECONDS` after the first, takes effect immediately.
    Signals are recorded in the main thread only. Signals that are already ignored, such as Ctrl-C
    in a background job of a shell, stay ignored.
    """

    current: ClassVar[StopSignals | None] = None

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._interruptible = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._record)
                for number in (signal.SIGINT, signal.SIGTERM)
                if signal.getsignal(number) is not signal.SIG_IGN
            }
        StopSignals.current = self
        return self

    def __exit__(self, *_: object) -> None:
        StopSignals.current = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def requested(self) -> int:
        """Return the number of the signal that any of the run's processes received, 0 if none.

        The result is the same in all processes; they must call this method at the same step.
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
            StopRequested: If a stop is requested in the block or was requested before.
        """
        self._interruptible = True
        try:
            if self.number:
                raise StopRequested
            yield
        finally:
            self._interruptible = False

    def overdue(self) -> bool:
        """Return True if the first signal arrived more than :data:`PATIENCE_SECONDS` ago."""
        return bool(self.number) and time.monotonic() - self._since > PATIENCE_SECONDS

    def _record(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._since = number, now
            if self._interruptible:
                raise StopRequested
        elif now - self._since > ECHO_SECONDS:
            self.__exit__()
            signal.raise_signal(number)


def raise_if_overdue() -> None:
    """Raise :class:`StopRequested` if a stop request is overdue; called while waiting."""
    if StopSignals.current is not None and StopSignals.current.overdue():
        raise StopRequested


def disable_sigchld_handler() -> None:
    """Prevent PyTorch from raising an error in the middle of a step when a worker dies.

    Weights would be half updated. A loader that waits for a batch regularly checks its workers, and
    raises the error there.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, 'SIGCHLD'):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    # PyTorch sets the handler once per process, at the first use of workers.
    if getattr(handler, '__module__', '').startswith('torch.'):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def shield_workers(loader: DataLoader) -> None:
    """Make the workers of a data loader ignore signals that request a stop, except from their run.

    Terminals, schedulers and launchers signal all processes, but the main process decides when to
    stop and terminates its workers. Without ``sigwaitinfo`` (macOS, Windows), which identifies the
    sender of a signal, this function has no effect.
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
