"""Copies of networks for inference, with batch normalizations fused into convolutions."""

from __future__ import annotations

import copy
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Runs a network on images; returns all outputs that are read, as tensors in any containers.
Run = Callable[[nn.Module, Tensor], Any]

# Relative to the largest value. Rounding changes trained networks by about 1e-6, a wrong pair by 1.
_TOLERANCE = 1e-2
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TIMM_NORM = 'BatchNormAct2d'  # of timm, with dropout and an activation as parts


@dataclass
class _Entry:
    """Copy of a network: all fields but the last two describe how to make it again."""

    network: nn.Module
    dtype: torch.dtype | None = None
    modules: list[nn.Module] = field(default_factory=list)
    pairs: list[tuple[_ConvNd, Any]] = field(default_factory=list)
    convolutions: list[_ConvNd] = field(default_factory=list)
    channels_last: bool = False
    state: list[Any] = field(default_factory=list)
    copy: nn.Module | None = None


class InferenceCopies:
    """Copies of networks in eval mode that compute the same in less time.

    In a copy, each batch normalization is fused into the convolution before it if nothing else
    reads the output of that convolution. It becomes an identity, so the names of modules stay.
    Convolutions use the channels-last memory format on CPUs and in mixed precision, in which their
    weights also have its dtype. All other tensors are shared with the network.
    Outputs differ from those of the network by rounding, about 1e-6 in float32.

    A copy is made on first use and again when weights have changed, except by operators on
    ``parameter.data``, which PyTorch does not record: call :meth:`drop` after those. Copies are not
    part of the network or its state dict, and are not included when this object is copied or
    pickled.

    Args:
        enabled: If False, networks are used as they are.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._entries: dict[tuple[int, torch.dtype | None], _Entry] = {}

    def __reduce__(self) -> Any:
        return InferenceCopies, (self.enabled,)

    def drop(self) -> None:
        """Free all copies; call it before attributes of networks change."""
        for entry in self._entries.values():
            entry.copy, entry.state = None, []

    @torch.compiler.disable
    def of(self, network: nn.Module, run: Run, images: Any) -> nn.Module:
        """Return the copy of a network, or the network if a copy would not be faster.

        The network is returned if gradients are enabled, a part of it is in training mode, has
        forward hooks or a replaced ``forward`` or is compiled, or no batch normalization can be
        fused.

        Args:
            network: The network.
            run: Runs the network on images. A batch normalization is not fused if the result
                contains its input, or it is in train mode or used several times.
            images: Images (N, C, H, W), the first of which is used to follow the data.
        """
        usable = self.enabled and not torch.is_grad_enabled() and isinstance(images, Tensor)
        if not usable or not len(images):
            return network
        device = images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        entry = self._entries.setdefault((id(network), dtype), _Entry(network, dtype))
        modules = entry.modules if entry.copy is not None else list(network.modules())
        if not all(map(_is_plain, modules)):
            return network
        if entry.copy is None or not _is_same(_state(modules), entry.state):
            modules = list(network.modules())
            try:
                # Inference tensors and autocast would hide which weight an operator reads.
                with (
                    torch.inference_mode(False),
                    torch.no_grad(),
                    torch.autocast(device, None, False),
                ):
                    if modules != entry.modules:
                        entry.modules, entry.pairs = modules, []
                        _plan(entry, run, torch.cat([images[:1]] * 2))
                    entry.copy = _fused(entry, entry.dtype) if entry.pairs else network
            except Exception as error:  # A faster copy is never worth a failed run.
                _warn(network, f'{type(error).__name__}: {error}')
                entry.pairs, entry.copy = [], network
            entry.state = _state(modules)
        return entry.copy


class FusedStep:
    """``test_step`` of a single network of a framework that predicts with its copy.

    Args:
        network: The network.
        run: See :meth:`InferenceCopies.of`.
    """

    def __init__(self, network: Any, run: Run) -> None:
        self.network = network
        self.run = run
        self.copies = InferenceCopies()

    def __call__(self, data: Any) -> Any:
        """Predict a batch, as mmengine's ``test_step``."""
        data = self.network.data_preprocessor(data, False)
        return self.copies.of(self.network, self.run, data['inputs'])(**data, mode='predict')


def _is_plain(module: nn.Module) -> bool:
    return not (
        module.training
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._compiled_call_impl
        or 'forward' in vars(module)  # may belong to another module
    )


def _state(modules: Iterable[nn.Module]) -> list[Any]:
    """Return the parts of modules, and numbers that change with the values of tensors."""
    state: list[Any] = []
    for module in modules:
        state += module._modules.values()
        for x in (*module._parameters.values(), *module._buffers.values()):
            if x is not None:
                # While the storage is kept, no other one has its address.
                state += x, x.untyped_storage(), x.data_ptr()
                state.append(0 if x.is_inference() else x._version)
    return state


def _is_same(state: list[Any], other: list[Any]) -> bool:
    return len(state) == len(other) and all(
        a is b or (type(a) is int and a == b) for a, b in zip(state, other, strict=True)
    )


class _DataFlow(TorchDispatchMode):
    """Records the outputs of convolutions, and how many operators read them and the parameters."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.uses = Counter({id(x): 0 for x in parameters})
        self.convolved: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.uses.update({id(x) for x in tree_leaves((args, kwargs))} & self.uses.keys())
        if func is torch.ops.aten.convolution.default:
            self.convolved[id(output)] = output, args[1], args[2]
            self.uses[id(output)] = 0
        return output


def _plan(entry: _Entry, run: Run, images: Tensor) -> None:
    """Find what can be fused, and a memory format in which the network computes the same."""
    expected = _follow(entry, run, images)
    error: Exception | None = None
    # Parts that did not run may not support the other format.
    for entry.channels_last in (True, False) if expected else (False,):
        try:
            if not entry.pairs or _agree(expected, _outputs(run, _fused(entry), images)):
                break
        except RuntimeError as problem:  # such as view() of a map in channels-last format
            error = problem
    else:
        raise ValueError('outputs would change by more than rounding') from error
    if entry.pairs and entry.dtype is not None:
        try:
            with torch.autocast(images.device.type, entry.dtype):
                _outputs(run, _fused(entry, entry.dtype), images)
        except RuntimeError:  # A part of the network leaves mixed precision.
            entry.dtype = None


def _follow(entry: _Entry, run: Run, images: Tensor) -> list[Tensor]:
    """Find what can be fused by following the data through the network; return its outputs."""
    network, modules = entry.network, entry.modules
    owners: dict[int, list[nn.Module]] = {}
    for module in modules:
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append(module)
    flow = _DataFlow(network.parameters())
    calls: dict[Any, list[tuple[Any, int]]] = {}

    def before(norm: nn.Module, args: Any) -> None:
        x = args[0] if args else None
        calls.setdefault(norm, []).append((x, flow.uses[id(x)]))

    handles = [one.register_forward_pre_hook(before) for one in modules if _is_norm(one)]
    try:
        with flow:
            outputs = _outputs(run, network, images)
    finally:
        for handle in handles:
            handle.remove()

    def convolution(x: Tensor) -> _ConvNd | None:
        """Return the convolution with this output if only it uses its parameters."""
        _, weight, bias = flow.convolved[id(x)]
        owner = owners.get(id(weight), [])
        if len(owner) != 1 or not isinstance(conv := owner[0], _ConvNd) or conv.bias is not bias:
            return None
        own = [one for one in (weight, bias) if one is not None]
        once = all(flow.uses[id(one)] == 1 and len(owners[id(one)]) == 1 for one in own)
        return conv if once and not (conv.transposed and conv.groups > 1) else None

    found = {key: convolution(x) for key, (x, *_) in flow.convolved.items()}
    entry.convolutions = [conv for conv in found.values() if conv is not None]
    read = {id(x) for x in outputs}
    for norm, inputs in calls.items():
        x, uses_before = inputs[0]
        conv = found.get(id(x))
        # The normalization reads it once, and nothing does before, after, or at the end.
        only = flow.uses[id(x)] == 1 and uses_before == 0 and id(x) not in read
        if conv is not None and only and len(inputs) == 1:
            entry.pairs.append((conv, norm))
    return outputs


def _outputs(run: Run, network: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a network without changing the random state."""
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        return [x for x in tree_leaves(run(network, images)) if isinstance(x, Tensor)]


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module only normalizes, with running statistics, and may activate."""
    known = type(module) in _NORMS or type(module).__name__ == _TIMM_NORM
    return known and isinstance(module, _BatchNorm) and module.running_mean is not None


def _fused(entry: _Entry, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy with fused pairs, and with convolutions in a dtype if it is not None."""
    network: Any = entry.network
    shared = [*network.parameters(), *network.buffers()]
    # Settings stay shared, so that later changes of them have an effect.
    shared += [x for one in entry.modules for x in vars(one).values() if isinstance(x, ConfigDict)]
    memo: dict[int, Any] = {id(x): x for x in shared}
    for _, norm in entry.pairs:
        parts = [(name, part) for name, part in norm.named_children()]
        copies = OrderedDict((name, copy.deepcopy(part, memo)) for name, part in parts)
        memo[id(norm)] = nn.Sequential(copies) if copies else nn.Identity()
    copied = copy.deepcopy(network, memo)
    for conv, norm in entry.pairs:
        memo[id(conv)].weight, memo[id(conv)].bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
            conv.transposed,
        )
    for conv in entry.convolutions:
        own = memo[id(conv)]
        weight = own.weight.detach().to(dtype or own.weight.dtype)
        if entry.channels_last and weight.ndim == 4 and (dtype or weight.device.type == 'cpu'):
            weight = weight.to(memory_format=torch.channels_last)
        own.weight = nn.Parameter(weight, requires_grad=False)
    return copied


def _agree(expected: list[Tensor], outputs: list[Tensor]) -> bool:
    return all(
        bool((a - b).abs().max() <= _TOLERANCE * a.abs().max())
        for a, b in zip(expected, outputs, strict=True)
    )


def _warn(network: nn.Module, problem: str) -> None:
    print_log(
        f'Batch normalizations of {type(network).__name__} are not fused for inference, which only '
        f'makes it slower: {problem}',
        logger='current',
        level=logging.WARNING,
    )
