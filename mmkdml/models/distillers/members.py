"""Building members and probing them with a blank image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from mmkdml.models.distillers.terms.transfer_terms import MemberOutputs
from mmkdml.models.distillers.validation import reraise_as_value_error
from mmkdml.models.input_channels import possible_input_channels
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import Task
from mmkdml.registry import MODELS


def build_members(members: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Build members from their configs; modules are used as they are.

    Raises:
        ValueError: If a config is invalid, or two members are the same module.
    """
    built = {name: _build_member(name, member) for name, member in members.items()}
    if len({id(member) for member in built.values()}) < len(built):
        raise ValueError(
            f'Invalid members {", ".join(built)}: expected a module for each, got one and the same '
            'module twice. Build one for each'
        )
    return built


def _build_member(name: str, config_or_module: Any) -> nn.Module:
    if isinstance(config_or_module, nn.Module):
        return config_or_module
    with reraise_as_value_error(f'Invalid member {name}'):
        return MODELS.build(_copy(config_or_module))


def _copy(value: Any) -> Any:
    """Copy the dicts and lists of a config, which the frameworks change while they build."""
    if isinstance(value, dict):
        return type(value)({key: _copy(one) for key, one in value.items()})
    return [_copy(one) for one in value] if type(value) is list else value


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Run a block in eval mode and without gradients; restore modes and random state after it."""
    states = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in states:
            part.training = training


def probe_member(
    member: nn.Module,
    task: Task,
    taps: Iterable[str],
    input_size: Sequence[int],
    name: str = 'the network',
) -> MemberOutputs:
    """Compute a member's outputs for a blank image (1, C, H, W) in eval mode.

    C is the first of :func:`~mmkdml.models.input_channels.possible_input_channels` that the member
    accepts.

    Raises:
        ValueError: If a tap does not exist, or the forward pass fails.
    """
    parameter = next(member.parameters())
    size = tuple(input_size)
    first, *others = possible_input_channels(member)

    def probe(channels: int) -> MemberOutputs:
        image = torch.zeros((1, channels, *size), dtype=parameter.dtype, device=parameter.device)
        with TapRecorder(member, sorted(taps)) as recorder:
            with reraise_as_value_error(
                f'Invalid input_size {size}: the forward pass of {name} failed'
            ):
                logits = task.logits(member, image)
            return MemberOutputs(logits, recorder, name, channels)

    with evaluating(member):
        try:
            return probe(first)
        except ValueError:
            for channels in others:
                with suppress(ValueError):
                    return probe(channels)
            raise
