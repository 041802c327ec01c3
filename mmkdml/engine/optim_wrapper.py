"""Mixed precision training on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn import functional

from mmkdml.registry import OPTIM_WRAPPERS

# Speed-up of a convolution at which mixed precision pays for its conversions.
_WORTHWHILE = 1.2
_ROUNDS = 10  # The first one compiles the kernels.


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """``OptimWrapper`` with bfloat16 autocast on a CPU, which mmengine's wrapper does not support.

    bfloat16 has the range of float32, so the loss is not scaled.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter mmengine's gradient accumulation context and autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def has_fast_bf16() -> bool:
    """Return whether convolutions in bfloat16 are faster than in float32 on this CPU.

    This needs instructions for bfloat16 (AMX or AVX512), and enough units for them: without AMX,
    Sapphire Rapids multiplies bfloat16 at half the speed of float32, a Zen 4 at twice its speed.
    Therefore a convolution is timed, which takes about 30 ms.

    Returns:
        False if PyTorch does not know the instructions of this CPU.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    known = any(capabilities.get(key, False) for key in ('amx_bf16', 'avx512_bf16'))
    return known and _bf16_speedup() >= _WORTHWHILE


def _bf16_speedup() -> float:
    """Return the CPU time of a convolution in float32 relative to bfloat16, with one thread."""
    images, weights = (
        {
            dtype: torch.ones(size).to(dtype, memory_format=torch.channels_last)
            for dtype in (torch.float32, torch.bfloat16)
        }
        for size in ((2, 64, 28, 28), (64, 64, 3, 3))
    )
    seconds = dict.fromkeys(images, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for dtype in [*images] * _ROUNDS:
                start = time.thread_time()
                functional.conv2d(images[dtype], weights[dtype], padding=1)
                seconds[dtype] = min(seconds[dtype], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    # Coarse clocks measure 0.
    return seconds[torch.float32] / max(seconds[torch.bfloat16], 1e-9)
