"""Named ranges for PyTorch's profiler, and interleaved timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.profiler import record_function

PREFIX = 'part: '


def part(name: str) -> AbstractContextManager[None]:
    """Return a context manager that names a range if PyTorch's profiler is active.

    The range ends with a CUDA synchronization, so that it covers exactly the kernels launched in
    it, which run asynchronously.

    Args:
        name: Name of the range in the trace, after :data:`PREFIX`.
    """
    if torch.compiler.is_compiling() or not torch.autograd._profiler_enabled():
        return nullcontext()
    return _recorded(name)


@contextmanager
def _recorded(name: str) -> Iterator[None]:
    with record_function(PREFIX + name):
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()


def interleaved_medians(
    measures: Mapping[str, Callable[[], float]], rounds: int, warmup: bool = True
) -> dict[str, float]:
    """Call measuring functions in turn, so that drifts in machine speed affect all of them.

    Args:
        measures: Functions by name; each returns a value, e.g. seconds.
        rounds: Number of recorded calls per function, >= 1.
        warmup: Call each function once before, without recording the value.

    Returns:
        Median value by name.
    """
    values: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + warmup):
        for name, measure in measures.items():
            value = measure()
            if turn >= warmup:
                values[name].append(value)
    return {name: statistics.median(measured) for name, measured in values.items()}


def elapsed_seconds(function: Callable[[], object]) -> float:
    """Call a function and return the wall-clock seconds it took."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
