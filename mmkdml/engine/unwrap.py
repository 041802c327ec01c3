"""Networks and optimizers inside the wrappers of a runner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch.optim import Optimizer


def unwrap_model(model: Any) -> Any:
    """Return the network inside a wrapper, or the model.

    Wrappers are ``DistributedDataParallel`` and its kin, and test-time augmentation.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def unwrap_optim_wrappers(wrapper: Any) -> list[OptimWrapper]:
    """Return the wrappers inside an ``OptimWrapperDict``, or the wrapper in a list."""
    return [*wrapper.values()] if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def unwrap_optimizers(wrapper: Any) -> Iterator[Optimizer]:
    """Yield PyTorch's optimizers, including the parts of ``SeparateOptimizers``."""
    for one in unwrap_optim_wrappers(wrapper):
        yield from getattr(one.optimizer, 'parts', [one.optimizer])
