"""Feature maps by the dotted name of the module that makes them.

These are the only forward hooks of the package. They are there while one forward runs, and gone
after it, so nothing is held between steps and a member stays what it was.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class TapRecorder:
    """Records the outputs of named submodules during one forward.

    Example:
        >>> with TapRecorder(network, ['backbone.layer4']) as taps:
        ...     network(images)
        >>> taps['backbone.layer4']  # (N, C, H, W), with its graph

    A module that gives several maps (a backbone) is recorded by its last one. A frozen member runs
    in inference mode, where PyTorch does not count in-place changes; the distiller therefore tries
    every tap once in normal mode, when it is built.

    Args:
        member: The network.
        names: Dotted names of its submodules.

    Raises:
        ValueError: If it has no such submodule; similar names are listed. On reading, if the
            module did not run, ran more than once or gave no tensor, or if its output was changed
            in place afterwards, which would give wrong gradients.
    """

    def __init__(self, member: nn.Module, names: Iterable[str]) -> None:
        self._modules = {name: _submodule(member, name) for name in names}
        self._records: dict[str, list[tuple[Any, int]]] = {}
        self.order: list[str] = []  # the names as their outputs came in the last forward
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
            if isinstance(output, (tuple, list)) and output:
                output = output[-1]
            self._records[name].append((output, _version(output)))
            self.order.append(name)

        return record

    def __getitem__(self, name: str) -> Tensor:
        """The map that the named module gave in the last forward, with its graph."""
        records = self._records[name]
        if len(records) != 1:
            raise ValueError(
                f'The tap {name!r} ran {len(records)} times in one forward; a tap must be a module '
                'that runs exactly once'
            )
        output, version = records[0]
        if not isinstance(output, Tensor):
            raise ValueError(
                f'The tap {name!r} gives {type(output).__name__}, not a tensor or a tuple of '
                'tensors; choose a module inside it'
            )
        if _version(output) != version:
            raise ValueError(
                f'The output of the tap {name!r} was changed in place after it was recorded (by an '
                'inplace activation or addition, usually), so its gradient would be wrong; tap the '
                'module after it, such as the activation or the whole block'
            )
        return output


def _version(output: Any) -> int:
    """How often the tensor was changed in place; inference tensors do not count."""
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
        f'{type(member).__name__} has no module {name!r} to tap; near names: {", ".join(near)}. '
        "tools/list_taps.py lists all of a config's, with their shapes"
    )
