"""Build members from their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmkdml.models.distillers.validation import reraise_as_value_error
from mmkdml.registry import MODELS


def build_members(members: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Build each member; modules stay as they are.

    Args:
        members: Config or module by name.

    Raises:
        ValueError: If one cannot be built, or two are the same module.
    """
    built = {name: _member(name, member) for name, member in members.items()}
    if len({id(member) for member in built.values()}) < len(built):
        raise ValueError('Two members are one and the same module; build one for each')
    return built


def _member(name: str, config_or_module: Any) -> nn.Module:
    if isinstance(config_or_module, nn.Module):
        return config_or_module
    with reraise_as_value_error(f'The member {name} cannot be built'):
        return MODELS.build(_copied(config_or_module))


def _copied(value: Any) -> Any:
    """A copy of a config's dicts and lists, which the frameworks change while they build."""
    if isinstance(value, dict):
        return type(value)({key: _copied(one) for key, one in value.items()})
    return [_copied(one) for one in value] if type(value) is list else value
