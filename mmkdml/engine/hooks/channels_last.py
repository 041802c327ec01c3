"""The memory layout that convolutions like best."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from mmkdml.engine.distributed import rebuild_reducers
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Has the channels of a pixel lie side by side in memory, in weights and feature maps.

    Convolutions run in this layout by themselves, without one they bring their input into it and
    their output back; feature maps get it from the weights. Shapes and names stay, numbers stay
    up to the order of additions. Checkpoints are in the usual layout, so a run may be resumed with
    or without the hook: PyTorch's fused optimisers take wrong numbers from a state that lies in
    memory in another way than its parameter, and say nothing. So does DistributedDataParallel with
    gradients if parameters change after it is made; it is told.
    """

    priority = 'LOWEST'  # to find in a checkpoint what other hooks put there

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Not earlier: weights are drawn in the order of memory, and resumed state has its own."""
        before = [parameter.stride() for parameter in runner.model.parameters()]
        runner.model.to(memory_format=torch.channels_last)  # gradients, too
        if before != [parameter.stride() for parameter in runner.model.parameters()]:
            rebuild_reducers(runner.model)
        if mode != 'train':
            return
        for optimizer in _optimizers(runner.optim_wrapper):
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    state[key] = _laid_out_as(parameter, value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Brings a checkpoint into the usual layout."""
        checkpoint.update(_contiguous(checkpoint))


def _optimizers(wrapper: Any) -> Iterator[Optimizer]:
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    for one in wrappers:
        yield from getattr(one.optimizer, 'parts', [one.optimizer])


def _laid_out_as(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value  # a number of steps
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _contiguous(value: Any) -> Any:
    """A copy, for state dicts hold what is in use."""
    if isinstance(value, Tensor):
        return value.contiguous()
    if isinstance(value, list):
        return [_contiguous(one) for one in value]
    if isinstance(value, dict):
        copied = copy.copy(value)  # with the metadata that PyTorch hangs on a state dict
        copied.update({key: _contiguous(one) for key, one in value.items()})
        return copied
    return value
