"""Mixed precision on a CPU."""

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
    """Runs the forward in bfloat16 where PyTorch deems it safe; mmengine's wrapper refuses CPUs.

    bfloat16 has float32's range, so no loss scaling is needed.

    Args:
        See mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enters mmengine's context of gradient accumulation, and autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, by AMX or AVX512; others only imitate it.

    False where torch cannot tell.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    return any(capabilities.get(key, False) for key in ('amx_bf16', 'avx512_bf16'))
