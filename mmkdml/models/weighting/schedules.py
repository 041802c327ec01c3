"""Schedules of transfer weights: mmengine's parameter schedulers, applied to a weight."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.optim.scheduler import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    ExponentialParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    PolyParamScheduler,
    StepParamScheduler,
)

from mmkdml.models.transfers import Transfer
from mmkdml.registry import PARAM_SCHEDULERS

WEIGHT = 'weight'
# mmengine divides by the previous factor. Scaling by a power of two is exact, so this one replaces
# factors of zero, and weights below the threshold are zero.
_ZERO_FACTOR = 2.0**-200
_ZERO_BELOW = 1e-40
_FIXED = ('optimizer', 'param_name', 'last_step')


class WeightScheduler:
    """Mixin that makes one of mmengine's parameter schedulers change a transfer weight.

    Args:
        optimizer: Holder of the weight; see :class:`WeightSchedule`.
        **settings: Arguments of mmengine's scheduler.
    """

    def __init__(self, optimizer: Any, **settings: Any) -> None:
        for key in ('factor', 'start_factor'):
            if key in settings and settings[key] == 0:
                settings[key] = _ZERO_FACTOR
        super().__init__(optimizer, param_name=WEIGHT, **settings)  # type: ignore[call-arg]


@PARAM_SCHEDULERS.register_module()
class ConstantWeight(WeightScheduler, ConstantParamScheduler):
    """Multiply a weight by ``factor`` in the steps from ``begin`` to ``end``.

    As in mmengine, the factor ends one step before ``end``. Default of ``end``: never.

    Args:
        optimizer: Holder of the weight.
        **settings: ``factor`` in [0, 1] (default 1/3), ``begin``, ``end``, ``by_epoch``.
    """


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingWeight(WeightScheduler, CosineAnnealingParamScheduler):
    """Change a weight to ``eta_min`` along half a cosine wave.

    Args:
        optimizer: Holder of the weight.
        **settings: ``T_max`` steps (default ``end - begin``), ``eta_min`` (default 0) or
            ``eta_min_ratio`` of the base weight, ``begin``, ``end``, ``by_epoch``.
    """


@PARAM_SCHEDULERS.register_module()
class ExponentialWeight(WeightScheduler, ExponentialParamScheduler):
    """Multiply a weight by ``gamma`` in each step.

    Args:
        optimizer: Holder of the weight.
        **settings: ``gamma``, ``begin``, ``end``, ``by_epoch``.
    """


@PARAM_SCHEDULERS.register_module()
class LinearWeight(WeightScheduler, LinearParamScheduler):
    """Multiply a weight by a factor that changes linearly, e.g. a warm-up.

    Args:
        optimizer: Holder of the weight.
        **settings: ``start_factor`` (default 1/3) and ``end_factor`` (default 1) in [0, 1],
            ``begin``, ``end``, ``by_epoch``. The last factor is reached in step ``end - 1``.
    """

    def _get_value(self) -> list[float]:
        """Return the weight; without rounding errors at the end if the last factor is 0."""
        if self.end_factor == 0 and 0 < self.last_step == self.total_iters:
            return [0.0 for _ in self.optimizer.param_groups]
        return super()._get_value()


@PARAM_SCHEDULERS.register_module()
class CosineWarmupWeight(LinearWeight):
    """Multiply a weight by a factor that changes along half a cosine wave.

    In step t of ``end - begin`` steps, with T = ``end - begin - 1``, the factor is ::

        start_factor + (end_factor - start_factor) * (1 - cos(pi * t / T)) / 2

    mmengine has no such scheduler: its cosine annealing starts from the base value.

    Args:
        optimizer: Holder of the weight.
        start_factor: First factor in [0, 1].
        **settings: Arguments of :class:`LinearWeight`.
    """

    def __init__(self, optimizer: Any, start_factor: float = 0.0, **settings: Any) -> None:
        super().__init__(optimizer, start_factor=start_factor, **settings)

    def _get_value(self) -> list[float]:
        """Return the weight, from its value in the step before."""
        before = self._factor(self.last_step - 1) if self.last_step else 1.0
        weights = (group[WEIGHT] for group in self.optimizer.param_groups)
        return [weight / before * self._factor(self.last_step) for weight in weights]

    def _factor(self, step: int) -> float:
        share = (1 - math.cos(math.pi * step / max(self.total_iters, 1))) / 2
        return self.start_factor + (self.end_factor - self.start_factor) * share


@PARAM_SCHEDULERS.register_module()
class MultiStepWeight(WeightScheduler, MultiStepParamScheduler):
    """Multiply a weight by ``gamma`` at each milestone; ``gamma=0`` ends a transfer.

    Args:
        optimizer: Holder of the weight.
        **settings: ``milestones``, ``gamma`` (default 0.1), ``begin``, ``end``, ``by_epoch``.
    """


@PARAM_SCHEDULERS.register_module()
class PolyWeight(WeightScheduler, PolyParamScheduler):
    """Change a weight to ``eta_min`` by a polynomial.

    Args:
        optimizer: Holder of the weight.
        **settings: ``eta_min`` (default 0), ``power`` (default 1), ``begin``, ``end``,
            ``by_epoch``.
    """


@PARAM_SCHEDULERS.register_module()
class StepWeight(WeightScheduler, StepParamScheduler):
    """Multiply a weight by ``gamma`` every ``step_size`` steps.

    Args:
        optimizer: Holder of the weight.
        **settings: ``step_size``, ``gamma`` (default 0.1), ``begin``, ``end``, ``by_epoch``.
    """


class WeightSchedule:
    """Weight of a transfer in the course of a training.

    The schedules are chained as mmengine chains the schedulers of a learning rate: each changes
    the value that the others left, and a step is an epoch (``by_epoch=True``, the default), or an
    iteration. Values equal those of mmengine's schedulers; factors of 0 are supported, too.

    Args:
        transfer: Transfer with a schedule.
        epoch_length: Number of iterations of an epoch, for ``convert_to_iter_based``.
        max_epochs: Number of epochs of the training, the default ``end`` of schedules by epoch
            other than ``ConstantWeight``; None to keep that of mmengine's classes.
        max_iters: The same for schedules by iteration.

    Attributes:
        schedulers: The schedulers, to be stepped after each epoch or iteration.

    Raises:
        ValueError: If a schedule is invalid.
    """

    def __init__(
        self,
        transfer: Transfer,
        epoch_length: int = 1,
        max_epochs: int | None = None,
        max_iters: int | None = None,
    ) -> None:
        # Its step is never called, but schedulers expect an optimizer.
        group = {'params': [torch.nn.Parameter(torch.zeros(()))], WEIGHT: float(transfer.weight)}
        self._holder = torch.optim.SGD([group], lr=0.0)
        self._transfer = transfer
        self.schedulers: list[Any] = []
        for config in transfer.schedule:
            end = max_epochs if config.get('by_epoch', True) else max_iters
            self.schedulers.append(self._build(config, epoch_length, end))

    def _build(self, config: Mapping[str, Any], epoch_length: int, end: int | None) -> Any:
        kind = config['type']
        kind = PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind
        if not (isinstance(kind, type) and issubclass(kind, WeightScheduler)):
            raise ValueError(
                f'Invalid schedule type {config["type"]!r}: expected one of {", ".join(SCHEDULES)}'
            )
        settings = {key: value for key, value in config.items() if key != 'type'}
        if wrong := [key for key in _FIXED if key in settings]:
            raise ValueError(f'Invalid schedule {kind.__name__}: {wrong[0]} is set by the training')
        for key in ('milestones', 'step_size'):
            _check_steps(kind.__name__, key, settings.get(key))
        if end is not None and not issubclass(kind, ConstantWeight):
            settings.setdefault('end', end)
        try:
            return PARAM_SCHEDULERS.build(
                dict(type=kind, **settings),
                default_args=dict(optimizer=self._holder, epoch_length=epoch_length),
            )
        except Exception as error:  # mmengine raises any type.
            raise ValueError(
                f'Invalid schedule {kind.__name__} with {settings} ({type(error).__name__}: '
                f'{error})'
            ) from error

    @property
    def value(self) -> float:
        """Weight in the current step.

        Raises:
            ValueError: If it is negative or not finite.
        """
        value = float(self._holder.param_groups[0][WEIGHT])
        if not 0 <= value < math.inf:
            raise ValueError(
                f'Invalid schedule of the transfer {self._transfer}: expected weights that are '
                f'finite and at least 0, got {value}. Schedules that overlap change each other'
            )
        return 0.0 if value < _ZERO_BELOW else value

    def step(self, by_epoch: bool) -> None:
        """Step the schedulers that count epochs, or those that count iterations."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # The optimizer takes no steps.
            for one in self.schedulers:
                if one.by_epoch == by_epoch:
                    one.step()


def _check_steps(name: str, key: str, steps: Any) -> None:
    listed = steps if isinstance(steps, Iterable) and not isinstance(steps, str) else [steps]
    if steps is not None and any(type(one) is not int for one in listed):
        raise ValueError(f'Invalid schedule {name}: expected integers as {key}, got {steps!r}')


SCHEDULES = tuple(
    sorted(
        name
        for name, value in globals().items()
        if isinstance(value, type)
        and issubclass(value, WeightScheduler)
        and value is not WeightScheduler
    )
)
