"""Interleaved timing, peak memory and costs shared by the benchmarks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mmkdml.engine import keep_freed_memory
from mmkdml.engine.memory import peak_memory_mib
from mmkdml.profiling import elapsed_seconds, interleaved_medians

Step = Callable[[], object]


@dataclass(frozen=True)
class StepCost:
    """Cost of one kind of step.

    Attributes:
        seconds: Seconds per step, median over the rounds.
        memory: Peak resident memory in MiB that building the networks and taking this step add to a
            new process.
    """

    seconds: float
    memory: float


def median_seconds(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Time interleaved steps, so that changes in the machine's speed affect all of them.

    Afterwards, this process keeps freed memory, as a training run on a CPU does.

    Args:
        steps: Steps by name.
        rounds: Measured calls of each, after one warm-up call.

    Returns:
        Median seconds by name.

    Raises:
        ValueError: If ``rounds`` is below 1. A step's own ValueError is prefixed with its name.
    """
    if rounds < 1:
        raise ValueError(f'Invalid rounds: expected at least 1, got {rounds}')
    keep_freed_memory()

    def seconds(name: str, step: Step) -> float:
        with named_errors(name):
            return elapsed_seconds(step)

    measures = {name: partial(seconds, name, step) for name, step in steps.items()}
    return interleaved_medians(measures, rounds)


def peak_memory(function: Callable[..., None], *args: Any) -> float:
    """Return how much a call raises the peak resident memory of a new process, in MiB.

    A new process is needed because the operating system never resets the peak.

    Args:
        function: Importable function.
        *args: Its arguments, which are pickled.
    """
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_peak_memory, (torch.get_num_threads(), function, *args))


def cost_cells(cost: StepCost, first: StepCost) -> list[str]:
    """Return table cells: seconds and MiB of a cost, each followed by its ratio to ``first``."""
    return [
        f'{cost.seconds:.3f}',
        f'{cost.seconds / first.seconds:.2f}',
        f'{cost.memory:.0f}',
        f'{cost.memory / first.memory:.2f}',
    ]


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Prefix a ValueError with the name of a step or config."""
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
