"""Optimizer settings per member of a classroom, e.g. layer-wise learning rates."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.registry import OPTIM_WRAPPER_CONSTRUCTORS

_KEYS = ('constructor', 'paramwise_cfg')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MemberOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build the parameter groups of each member with a constructor of its own.

    Constructors of the frameworks see one network with its own parameter names, so those for
    layer-wise decay of learning rates work as in a plain training. There is still one optimizer. ::

        optim_wrapper = dict(
            constructor='mmkdml.MemberOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            members=dict(
                teacher=dict(
                    constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
                    paramwise_cfg=dict(layer_decay_rate=0.75),
                ),
                student_1=dict(paramwise_cfg=dict(norm_decay_mult=0.0)),
            ),
        )

    Args:
        optim_wrapper_cfg: Settings of an ``OptimWrapper`` with ``optimizer`` and ``members``: a
            dict with ``constructor`` (default: mmengine's) and ``paramwise_cfg`` by name of a
            trained member.
        paramwise_cfg: As for mmengine's default constructor; applies to all other parameters.

    Raises:
        ValueError: If ``members`` is missing or has unknown keys.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        settings = dict(optim_wrapper_cfg)
        members = settings.pop('members', None)
        if not (isinstance(members, Mapping) and members) or not all(
            isinstance(one, Mapping) and not {*one} - {*_KEYS} for one in members.values()
        ):
            raise ValueError(
                f'Invalid optim_wrapper.members: expected a dict with {" and ".join(_KEYS)} by '
                "name of a member, such as dict(teacher=dict(constructor='mmpretrain."
                "LearningRateDecayOptimWrapperConstructor', paramwise_cfg=dict(layer_decay_rate="
                f'0.75))), got {members!r}'
            )
        super().__init__(settings, paramwise_cfg)
        self.members = members
        self._own: list[nn.Module] = []

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper of an optimizer with the parameter groups of all members.

        Raises:
            ValueError: If the model is no classroom, a member is unknown or frozen, or the
                constructor of a member fails.
        """
        network = unwrap_model(model)
        known = getattr(network, 'members', None)
        if not isinstance(known, nn.Module):
            raise ValueError(
                f'Invalid model for {type(self).__name__}: expected a classroom, got '
                f'{type(network).__name__}. Set its constructor and paramwise_cfg in optim_wrapper'
            )
        trained = dict(known.named_children())
        if unknown := sorted({*self.members} - {*trained}):
            raise ValueError(
                f'Invalid optim_wrapper.members: expected trained members ({", ".join(trained)}), '
                f'got {", ".join(unknown)}'
            )
        self._own = [trained[name] for name in self.members]
        groups: list[dict[str, Any]] = []
        for name, settings in self.members.items():
            groups += self._groups_of(name, trained[name], settings)
        if self.paramwise_cfg:
            self.add_params(groups, network)
        else:
            done = {id(one) for member in self._own for one in member.parameters()}
            rest = [one for one in network.parameters() if id(one) not in done]
            groups += [dict(params=rest)] if rest else []
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': groups})
        return OPTIM_WRAPPERS.build(
            self.optim_wrapper_cfg, default_args=dict(type=OptimWrapper, optimizer=optimizer)
        )

    def _groups_of(
        self, name: str, member: nn.Module, settings: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the parameter groups of a member, built as for a plain network."""
        groups: list[dict[str, Any]] = []
        try:
            constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
                dict(
                    type=settings.get('constructor', DefaultOptimWrapperConstructor),
                    # Copies, because some constructors change their settings.
                    optim_wrapper_cfg=dict(optimizer=copy.deepcopy(self.optimizer_cfg)),
                    paramwise_cfg=copy.deepcopy(settings.get('paramwise_cfg') or {}),
                )
            )
            constructor.add_params(groups, member)
        except Exception as error:  # the constructors of the frameworks raise any type
            kind = getattr(member, 'backbone', member)
            raise ValueError(
                f'Invalid optim_wrapper.members.{name}: {dict(settings)} does not fit '
                f'{type(member).__name__} with {type(kind).__name__} ({type(error).__name__}: '
                f'{error})'
            ) from error
        for group in groups:  # PyTorch accepts names only if all groups have them
            group.pop('param_names', None)
        return groups

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Add the parameter groups of a module, except for members with their own settings."""
        if not any(module is one for one in self._own):
            super().add_params(params, module, **kwargs)
