"""Networks and optimizers inside the wrappers of a runner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch.optim import Optimizer


def unwrap_model(model: Any) -> Any:
    """Return the network inside a wrapper such as ``DistributedDataParallel``, or the model."""
    return model.module if is_model_wrapper(model) else model


def unwrap_optim_wrappers(wrapper: Any) -> list[OptimWrapper]:
    """Return the wrappers inside an ``OptimWrapperDict``, or the wrapper in a list."""
    return [*wrapper.values()] if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def unwrap_optimizers(wrapper: Any) -> Iterator[Optimizer]:
    """Yield PyTorch's optimizers, including the parts of ``SeparateOptimizers``."""
    for one in unwrap_optim_wrappers(wrapper):
        yield from getattr(one.optimizer, 'parts', [one.optimizer])
