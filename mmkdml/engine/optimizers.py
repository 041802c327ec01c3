"""An optimiser of its own for the discriminators that learn beside the learners (SKD)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn
from torch.optim import Optimizer

from mmkdml.engine.distributed import unwrap_model
from mmkdml.registry import OPTIM_WRAPPER_CONSTRUCTORS


class SeparateOptimizers(Optimizer):
    """Several optimisers, of different types if need be, that look like one.

    Its groups of parameters are the parts' own, so schedulers, gradient clipping and loss scaling
    reach all of them. Its defaults are the first part's.

    Args:
        parts: Stepped in this order; no parameter may be in two of them.

    Raises:
        ValueError: If a parameter is in two parts, or there is no part.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__(self._groups_of_parts(), {})
        self.defaults = parts[0].defaults

    def _groups_of_parts(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs: a plain optimiser's, and the parts."""
        return {**super().__getstate__(), 'parts': self.parts}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Takes up a group of a part.

        Raises:
            ValueError: If no part has this group, and so none would step it.
        """
        if not any(param_group is group for group in self._groups_of_parts()):
            raise ValueError(
                'SeparateOptimizers takes only the groups of its parts; give the new group to the '
                'part that shall step it, before the parts are put together'
            )
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each part; the closure, if any, is called once, before all of them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """``parts``: the state of each."""
        return {'parts': [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Gives each part its state back.

        Raises:
            ValueError: If the state is not one of as many parts.
        """
        states = state_dict.get('parts', [])
        if len(states) != len(self.parts):
            raise ValueError(
                f'Expected the state of {len(self.parts)} separate optimisers, got one of '
                f'{len(states) or "a single optimiser"}; resume with the optim_wrapper the '
                'checkpoint was written with, or load its weights only (load_from without resume)'
            )
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups_of_parts()


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DiscriminatorOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Trains all discriminators with one optimiser and everything else with another.

    A discriminator is the ``discriminator`` of a module that has a ``discriminator_loss``, such as
    :class:`~mmkdml.models.losses.HolisticLoss`. The sum of all losses is still followed back once:
    the learners' terms give a discriminator no gradient, and its own give the learners none, so the
    steps are those of two optimisers taken in turn. ::

        optim_wrapper = dict(
            constructor=DiscriminatorOptimWrapperConstructor,
            optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4),
            discriminator_optimizer=dict(type=Adam, lr=4e-4, betas=(0.9, 0.99)),
        )

    Schedulers change both learning rates, as in SKD (irfanICMLL/structure_knowledge_distillation:
    train_and_eval.py); CIRKD leaves the discriminator's as it is (winycg/CIRKD:train_kd.py).
    ``clip_grad`` clips the gradients of both together, and an overflow with loss scaling skips the
    step of both.

    Args:
        optim_wrapper_cfg: An ``OptimWrapper``'s settings, with ``optimizer`` for the learners and
            ``discriminator_optimizer``, both with a ``type``.
        paramwise_cfg: As mmengine's default constructor takes it; of the learners alone.

    Raises:
        ValueError: If one of the two optimisers is missing or lacks its type.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        for key in ('optimizer', 'discriminator_optimizer'):
            settings = optim_wrapper_cfg.get(key)
            if not isinstance(settings, dict) or 'type' not in settings:
                raise ValueError(
                    f'optim_wrapper.{key} must be a dict with the type of an optimiser, such as '
                    f"dict(type='Adam', lr=4e-4, betas=(0.9, 0.99)); got {settings!r}"
                )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.discriminator_optimizer_cfg = self.optim_wrapper_cfg.pop('discriminator_optimizer')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper of a model's two optimisers, the learners' first.

        Raises:
            ValueError: If the model has no discriminator, or an optimiser cannot be built.
        """
        network = unwrap_model(model)
        self.discriminators = nn.ModuleList(
            module.discriminator
            for module in network.modules()
            if hasattr(module, 'discriminator_loss')
        )
        if not self.discriminators:
            raise ValueError(
                f'{type(network).__name__} has no module with a discriminator and its '
                'discriminator_loss; give it one, such as a HolisticLoss, or leave out '
                f'optim_wrapper.constructor ({type(self).__name__}) and discriminator_optimizer'
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

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **place: Any) -> None:
        """Adds the groups of a module and of those below it, but not of the discriminators."""
        if module not in self.discriminators:
            super().add_params(params, module, **place)


def _optimizer(key: str, settings: dict[str, Any], params: list[Any]) -> Optimizer:
    try:
        return OPTIMIZERS.build({**settings, 'params': params})
    except Exception as error:  # each optimiser checks its settings in its own way, if at all
        raise ValueError(
            f'optim_wrapper.{key} cannot be built of {settings} ({type(error).__name__}: {error})'
        ) from error
