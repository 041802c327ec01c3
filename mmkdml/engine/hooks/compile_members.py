"""Members compiled by ``torch.compile``, with their taps where they were."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmkdml.engine.distributed import unwrap_model
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class CompileMembersHook(Hook):
    """Compiles the members' networks when the first epoch begins; see :func:`compile_members`.

    Args:
        **settings: Of ``torch.compile``, e.g. ``mode='reduce-overhead'`` for CUDA graphs.
    """

    priority = 'LOWEST'  # after whatever changes the network

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self._compiled = False

    def before_train_epoch(self, runner: Runner) -> None:
        """Compiles, once."""
        if self._compiled:
            return
        network = unwrap_model(runner.model)
        parts = compile_members(network, **self.settings)
        runner.logger.info(f'Compiled, which makes first steps slow: {", ".join(parts)}')
        self._compiled = True


def compile_members(network: nn.Module, **settings: Any) -> list[str]:
    """Compiles the largest parts of a network in which no output is recorded, in place.

    A compiled part is traced as a whole and would not call hooks that come and go, so a tapped
    module, and what it lies in, run as before, and the parts in and beside it are compiled. Names
    in state dicts stay, copies (an average of weights) are not compiled.

    Args:
        network: A classroom, or any other network.
        **settings: Of ``torch.compile``. By default each shape of input has a graph of its own,
            and parts of one class do not share a limit of graphs, where torch can tell them apart.

    Returns:
        The names of the parts, those of a classroom with their member's before.
    """
    defaults = dict(dynamic=False, isolate_recompiles=True)
    known = inspect.signature(torch.compile).parameters  # 2.7 has no isolate_recompiles
    settings = {key: x for key, x in defaults.items() if key in known} | settings
    parts = dict(_parts_of_members(network))
    for part in parts.values():
        part.compile(**settings)
    return list(parts)


def _parts_of_members(network: Any) -> Iterator[tuple[str, nn.Module]]:
    observed: Mapping[str, Collection[str]] = getattr(network, 'observed_modules', {'': ()})
    members = network.named_members() if hasattr(network, 'named_members') else {'': network}
    for name, member in members.items():
        for path, part in _unobserved(member, observed[name]):
            yield f'{name}.{path}'.lstrip('.'), part


def _unobserved(
    module: nn.Module, observed: Collection[str], within: str = ''
) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_children():
        path = f'{within}{name}'
        # torch.compile passes over torch's own containers and begins with what is in them.
        container = type(part).forward.__module__.startswith('torch.')
        if container or any(f'{tap}.'.startswith(f'{path}.') for tap in observed):
            yield from _unobserved(part, observed, f'{path}.')
        elif next(part.children(), None) is not None:  # a layer alone gains nothing
            yield path, part
