"""Channels-last memory format for training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmkdml.engine.distributed import rebuild_reducers
from mmkdml.engine.unwrap import unwrap_optimizers
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keep weights and feature maps in the channels-last memory format.

    Convolutions use this format internally and convert inputs and outputs that have another one.
    Feature maps inherit the format of the weights. Shapes and names do not change, and values
    change only by the rounding of another order of additions.

    Checkpoints are saved in the default format, so a run can be resumed with or without the hook.
    The optimizer's state gets the strides of its parameters, because PyTorch's fused optimizers
    otherwise silently read wrong values, and DistributedDataParallel gets new reducers.
    """

    priority = 'LOWEST'  # After other hooks have added their entries to a checkpoint.

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        # Not earlier: initialization depends on strides, and resuming loads the default format.
        before = [parameter.stride() for parameter in runner.model.parameters()]
        runner.model.to(memory_format=torch.channels_last)  # Converts gradients, too.
        if before != [parameter.stride() for parameter in runner.model.parameters()]:
            rebuild_reducers(runner.model)
        if mode != 'train':
            return
        for optimizer in unwrap_optimizers(runner.optim_wrapper):
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    state[key] = _laid_out_as(parameter, value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Convert a checkpoint to the default memory format."""
        checkpoint.update(_contiguous(checkpoint))


def _laid_out_as(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value  # For example a step count.
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _contiguous(value: Any) -> Any:
    """Return a contiguous copy, because state dicts share tensors with the model."""
    if isinstance(value, Tensor):
        return value.contiguous()
    if isinstance(value, list):
        return [_contiguous(one) for one in value]
    if isinstance(value, dict):
        copied = copy.copy(value)  # Keeps the _metadata of a state dict.
        copied.update({key: _contiguous(one) for key, one in value.items()})
        return copied
    return value
