"""Separate optimizer for the discriminators of adversarial distillation (SKD)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn
from torch.optim import Optimizer

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.registry import OPTIM_WRAPPER_CONSTRUCTORS


class SeparateOptimizers(Optimizer):
    """Several optimizers, possibly of different types, behind the interface of one.

    Parameter groups are shared with the parts, so schedulers, gradient clipping and loss scaling
    apply to all of them. ``defaults`` are those of the first part.

    Args:
        parts: At least one optimizer; stepped in this order.

    Raises:
        ValueError: If a parameter is in two parts, or there is no part.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__(self._part_groups(), {})
        self.defaults = parts[0].defaults

    def _part_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        """Add the parts to the state of a plain optimizer."""
        return {**super().__getstate__(), 'parts': self.parts}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group of a part.

        Raises:
            ValueError: If no part has this group; it would never be stepped.
        """
        if not any(param_group is group for group in self._part_groups()):
            raise ValueError(
                'Invalid parameter group of SeparateOptimizers: expected a group of one of its '
                'parts. Add it to a part before building SeparateOptimizers'
            )
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step each part; the closure, if any, is called once before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part in the list ``parts``."""
        return {'parts': [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of each part.

        Raises:
            ValueError: If the number of parts differs.
        """
        states = state_dict.get('parts', [])
        if len(states) != len(self.parts):
            raise ValueError(
                f'Invalid state: expected {len(self.parts)} separate optimizers, got '
                f'{len(states) or "a single optimizer"}. Resume with the optim_wrapper that saved '
                'the checkpoint, or load its weights only (load_from without resume)'
            )
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self.param_groups = self._part_groups()


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DiscriminatorOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Train all discriminators with one optimizer and all other parameters with another.

    A discriminator is the attribute ``discriminator`` of a module with a ``discriminator_loss``,
    such as :class:`~mmkdml.models.losses.HolisticLoss`. There is still one backward pass of the
    sum of all losses: learner losses have no gradient in discriminators and vice versa, so the
    result equals alternating steps of two optimizers. ::

        optim_wrapper = dict(
            constructor=DiscriminatorOptimWrapperConstructor,
            optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4),
            discriminator_optimizer=dict(type=Adam, lr=4e-4, betas=(0.9, 0.99)),
        )

    Schedulers change both learning rates, as in SKD (irfanICMLL/structure_knowledge_distillation:
    train_and_eval.py); CIRKD keeps the discriminator's constant (winycg/CIRKD:train_kd.py).
    ``clip_grad`` clips all gradients together, and an overflow with loss scaling skips both steps.

    Args:
        optim_wrapper_cfg: Settings of an ``OptimWrapper``, with ``optimizer`` for the learners and
            ``discriminator_optimizer``, both with a ``type``.
        paramwise_cfg: As for mmengine's default constructor; applies to the learners only.

    Raises:
        ValueError: If one of the two optimizers or its type is missing.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        for key in ('optimizer', 'discriminator_optimizer'):
            settings = optim_wrapper_cfg.get(key)
            if not isinstance(settings, dict) or 'type' not in settings:
                raise ValueError(
                    f'Invalid optim_wrapper.{key}: expected a dict with the type of an optimizer, '
                    f"such as dict(type='Adam', lr=4e-4, betas=(0.9, 0.99)), got {settings!r}"
                )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.discriminator_optimizer_cfg = self.optim_wrapper_cfg.pop('discriminator_optimizer')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper of a model's two optimizers, that of the learners first.

        Raises:
            ValueError: If the model has no discriminator, or optimizer settings are invalid.
        """
        network = unwrap_model(model)
        self.discriminators = nn.ModuleList(
            module.discriminator
            for module in network.modules()
            if hasattr(module, 'discriminator_loss')
        )
        if not self.discriminators:
            raise ValueError(
                f'Invalid model for {type(self).__name__}: expected a module with a discriminator '
                f'and a discriminator_loss, such as HolisticLoss, got {type(network).__name__} '
                'without one. Remove optim_wrapper.constructor and discriminator_optimizer'
            )
        adversaries = list(self.discriminators.parameters())
        learners: list[Any] = []
        if self.paramwise_cfg:
            self.add_params(learners, network)
        else:
            known = set(adversaries)
            learners = [parameter for parameter in network.parameters() if parameter not in known]
        optimizer = SeparateOptimizers(
            _optimizer('optimizer', self.optimizer_cfg, learners),
            _optimizer('discriminator_optimizer', self.discriminator_optimizer_cfg, adversaries),
        )
        return OPTIM_WRAPPERS.build(
            self.optim_wrapper_cfg, default_args=dict(type=OptimWrapper, optimizer=optimizer)
        )

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Add the parameter groups of a module and its submodules, except for discriminators."""
        if module not in self.discriminators:
            super().add_params(params, module, **kwargs)


def _optimizer(key: str, settings: dict[str, Any], params: list[Any]) -> Optimizer:
    try:
        return OPTIMIZERS.build({**settings, 'params': params})
    except Exception as error:  # Optimizers raise any type for invalid settings.
        raise ValueError(
            f'Invalid optim_wrapper.{key}: {settings} ({type(error).__name__}: {error})'
        ) from error
