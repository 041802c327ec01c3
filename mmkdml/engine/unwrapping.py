"""The network inside of a model wrapper."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper


def unwrapped(model: Any) -> Any:
    """Return the network of a wrapper such as ``DistributedDataParallel``, or the model itself."""
    return model.module if is_model_wrapper(model) else model
