"""Compile the members' networks with ``torch.compile`` and keep their taps working."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch._inductor import config as inductor_config

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.functional.checks import check_choice
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class CompileMembersHook(Hook):
    """Compile the members' networks before the first epoch; see :func:`compile_members`.

    Args:
        members: Names of the members to compile, e.g. only a frozen ``['teacher']``; None for all.
        **settings: Arguments of ``torch.compile``, e.g. ``mode='reduce-overhead'`` for CUDA graphs.
    """

    priority = 'LOWEST'  # After hooks that change the network.

    def __init__(self, members: Collection[str] | None = None, **settings: Any) -> None:
        self.members = members
        self.settings = settings
        self._compiled = False

    def before_train_epoch(self, runner: Runner) -> None:
        """Compile the network once."""
        if self._compiled:
            return
        network = unwrap_model(runner.model)
        parts = compile_members(network, self.members, **self.settings)
        runner.logger.info(f'Compiling {", ".join(parts)}; the first steps are slow')
        self._compiled = True


def compile_members(
    network: nn.Module, members: Collection[str] | None = None, **settings: Any
) -> list[str]:
    """Compile the largest submodules of a network that contain no tap, in place.

    A compiled module does not call forward hooks that are added later, so tapped modules and their
    parents stay uncompiled, but their other submodules are compiled. Names in state dicts do not
    change, and copies, such as weight averages, are not compiled.

    The weights of frozen members become constants of their graphs, so that inductor fuses batch
    normalizations and stores the convolutions in the format of the device.

    Args:
        network: A classroom, or any other network.
        members: Names of the members of a classroom to compile; None for all.
        **settings: Arguments of ``torch.compile``. By default, each input shape gets its own graph,
            and, if PyTorch supports it, modules of one class do not share a recompilation limit.

    Returns:
        The names of the compiled modules, prefixed by their member's in a classroom.

    Raises:
        ValueError: If the network has no member of this name.
    """
    defaults = dict(dynamic=False, isolate_recompiles=True)
    known = inspect.signature(torch.compile).parameters  # 2.7 lacks isolate_recompiles.
    settings = {key: x for key, x in defaults.items() if key in known} | settings
    compiled = []
    for name, member, observed in _members(network, members):
        for path, part in _unobserved(member, observed):
            part.compile(**settings)
            if name in getattr(network, 'frozen_names', ()):
                # torch.compile(options=dict(freezing=True)) is set too late to have an effect.
                freeze = inductor_config.patch(freezing=True)
                part._compiled_call_impl = freeze(part._compiled_call_impl)
            compiled.append(f'{name}.{path}'.lstrip('.'))
    return compiled


def _members(
    network: Any, names: Collection[str] | None
) -> Iterator[tuple[str, nn.Module, Collection[str]]]:
    observed: Mapping[str, Collection[str]] = getattr(network, 'observed_modules', {'': ()})
    members = network.named_members() if hasattr(network, 'named_members') else {'': network}
    for name in members if names is None else names:
        check_choice('member to compile', name, tuple(members))
        yield name, members[name], observed[name]


def _unobserved(
    module: nn.Module, observed: Collection[str], within: str = ''
) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_children():
        path = f'{within}{name}'
        # torch.compile skips PyTorch's own containers and starts with their children.
        container = type(part).forward.__module__.startswith('torch.')
        if container or any(f'{tap}.'.startswith(f'{path}.') for tap in observed):
            yield from _unobserved(part, observed, f'{path}.')
        elif next(part.children(), None) is not None:  # Single layers do not benefit.
            yield path, part
