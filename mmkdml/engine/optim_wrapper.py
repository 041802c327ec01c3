"""Mixed precision training on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmkdml.registry import OPTIM_WRAPPERS


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
    """Return True if the CPU multiplies bfloat16 in hardware (AMX or AVX512), False if unknown."""
    capabilities: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    return any(capabilities.get(key, False) for key in ('amx_bf16', 'avx512_bf16'))
