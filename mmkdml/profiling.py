"""Named ranges of a training step for PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.profiler import record_function

PREFIX = 'part: '


def part(name: str) -> AbstractContextManager[None]:
    """Return a context manager that names a range if PyTorch's profiler is active.

    CUDA kernels run asynchronously: the range ends with a synchronization, so that it covers the
    time of its own kernels only.

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
