"""Recording of feature maps by the dotted names of modules.

Forward hooks are registered for a single forward pass and removed afterwards, so no tensor is kept
between steps and the network stays unchanged.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mmkdml.commands import tool_command


class TapRecorder:
    """Record the outputs of named submodules during one forward pass.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mmkdml.models.taps import TapRecorder
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> with TapRecorder(network, ['0']) as taps:
        ...     output = network(torch.zeros(2, 3, 8, 8))
        >>> taps['0'].shape  # with its graph
        torch.Size([2, 8, 6, 6])

    If a module has several outputs (a backbone), the last one is recorded, without the size of a
    grid that may follow it. PyTorch does not count in-place changes in inference mode, in which
    frozen members run; the distiller therefore probes every tap once in normal mode when it is
    built.

    Args:
        member: The network.
        names: Dotted names of its submodules.

    Attributes:
        order: Names in the order in which the modules ran in the last forward pass.

    Raises:
        ValueError: If a submodule does not exist; similar names are listed. On reading, if the
            module did not run exactly once, did not return a tensor, or its output was modified in
            place afterwards, which would make gradients wrong.
    """

    def __init__(self, member: nn.Module, names: Iterable[str]) -> None:
        self._modules = {name: _submodule(member, name) for name in names}
        self._records: dict[str, list[tuple[Any, int]]] = {}
        self.order: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> TapRecorder:
        self._records = {name: [] for name in self._modules}
        self.order = []
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._recorder(name)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _recorder(self, name: str) -> Any:

        def record(module: nn.Module, args: Any, output: Any) -> None:
            output = _last(output)
            self._records[name].append((output, _version(output)))
            self.order.append(name)

        return record

    def __getitem__(self, name: str) -> Tensor:
        """Return the output of a module in the last forward pass, with its graph."""
        records = self._records[name]
        if len(records) != 1:
            raise ValueError(
                f'Invalid tap {name!r}: expected a module that runs once per forward pass, but it '
                f'ran {len(records)} times'
            )
        output, version = records[0]
        if not isinstance(output, Tensor):
            raise ValueError(
                f'Invalid tap {name!r}: expected a tensor or a tuple of tensors, got '
                f'{type(output).__name__}. Choose a module inside it'
            )
        if _version(output) != version:
            raise ValueError(
                f'Invalid tap {name!r}: its output was modified in place after it was recorded '
                '(usually by an inplace activation or addition), so its gradient would be wrong. '
                'Tap the next module, such as the activation or the block'
            )
        return output


def _last(output: Any) -> Any:
    """Return the last of several outputs.

    For tokens with the size of their grid these are the tokens, and for a map with its class token
    the map.
    """
    if not isinstance(output, (tuple, list)) or not output:
        return output
    last = output[-1]
    if isinstance(last, (tuple, list)) and last:
        if len(output) > 1 and all(isinstance(x, int) for x in last):
            return output[-2]
        if len(last) == 2 and isinstance(last[0], Tensor) and last[0].ndim == 4:
            return last[0]
    return last


def _version(output: Any) -> int:
    """Return how often a tensor was modified in place; 0 for inference tensors."""
    return output._version if isinstance(output, Tensor) and not output.is_inference() else 0


def _submodule(member: nn.Module, name: str) -> nn.Module:
    try:
        if name:
            return member.get_submodule(name)
    except AttributeError:
        pass
    names = [known for known, _ in member.named_modules() if known]
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:5]
    raise ValueError(
        f'Invalid tap {name!r}: {type(member).__name__} has no such module, but '
        f'{", ".join(near)}. {tool_command("list_taps")} lists all taps of a config with their '
        'shapes'
    )
