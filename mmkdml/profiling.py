"""Names for the parts of a training step, by which a profiler tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.profiler import record_function

PREFIX = 'part: '


def part(name: str) -> AbstractContextManager[None]:
    """Names what is done while it is entered, if PyTorch's profiler is on; else it does nothing.

    A GPU works on after it was told what to do: the profiler waits for it at the end of each part,
    so that a part's time is its own.

    Args:
        name: In the trace it comes after :data:`PREFIX`.
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
