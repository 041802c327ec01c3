"""Seconds and memory of what is to be compared, measured side by side."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from mmkdml.engine import keep_freed_memory
from mmkdml.engine.memory import peak_memory_mib

Step = Callable[[], object]


class Cost(Protocol):
    """What a step costs."""

    @property
    def seconds(self) -> float:
        """Of one step."""

    @property
    def memory(self) -> float:
        """Peak of a process that does nothing else, in MiB."""


def median_seconds(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Times steps that take turns, so that a machine that slows down slows all of them.

    Freed memory is kept by this process from then on, as by a training run on a CPU.

    Args:
        steps: By name.
        rounds: Measured steps of each, after one that is not.

    Returns:
        The median of each one's seconds.

    Raises:
        ValueError: If ``rounds`` is below 1; or of a step, with its name.
    """
    if rounds < 1:
        raise ValueError(f'rounds must be at least 1, got {rounds}')
    keep_freed_memory()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            with named_errors(name):
                step()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(measured) for name, measured in times.items()}


def peak_memory(function: Callable[..., None], *args: Any) -> float:
    """Highest resident memory of a process that calls a function, above what it had before.

    The process is a new one, for the operating system keeps the highest mark of all that was done.

    Args:
        function: Of a module, so that the new process can import it.
        *args: Its arguments; they are pickled.

    Returns:
        MiB.
    """
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_peak_memory, (torch.get_num_threads(), function, *args))


def cost_cells(cost: Cost, first: Cost) -> list[str]:
    """Cells of a table: seconds and MiB, each followed by its ratio to the first one's.

    Args:
        cost: To be told.
        first: To be compared with.
    """
    return [
        f'{cost.seconds:.3f}',
        f'{cost.seconds / first.seconds:.2f}',
        f'{cost.memory:.0f}',
        f'{cost.memory / first.memory:.2f}',
    ]


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Says of which step or config an error is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error


def _peak_memory(threads: int, function: Callable[..., None], *args: Any) -> float:
    torch.set_num_threads(threads)
    keep_freed_memory()
    before = peak_memory_mib()
    function(*args)
    return peak_memory_mib() - before
