"""From a list of transfers to losses and projectors that were seen to fit.

Every member runs once on a blank image; the shapes of logits and feature maps give the channels of
projectors, and what does not fit is refused before the training starts.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkdml.models.losses import FeatureMSELoss, PredictionKLLoss
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import Task
from mmkdml.models.transfers import FEATURES, PREDICTIONS, Transfer
from mmkdml.registry import MODELS

LOSS_TYPES: dict[str, type[nn.Module]] = {PREDICTIONS: PredictionKLLoss, FEATURES: FeatureMSELoss}


@dataclass
class Observation:
    """What one forward of one member showed."""

    logits: Tensor | None
    taps: TapRecorder
    member: str = 'the network'

    def knowledge_at(self, tap: str | None) -> Tensor:
        """The map of a tap, or the logits if no tap is named.

        Raises:
            ValueError: If the head gives no logits, or see :class:`TapRecorder`.
        """
        if tap is not None:
            return self.taps[tap]
        if self.logits is None:
            raise ValueError(
                f'The head of {self.member} gives no single tensor of logits, so its predictions '
                'cannot be handed on or compared; hand over features, or use another head'
            )
        return self.logits


@dataclass
class Lesson:
    """A transfer made ready: what is taken where, and how it is compared."""

    transfer: Transfer
    key: str
    source_tap: str | None
    learner_tap: str | None
    loss: nn.Module
    projector: nn.Module | None
    source_shape: tuple[int, ...] = ()  # of one image, before the projector
    learner_shape: tuple[int, ...] = ()

    def tapped(self) -> list[tuple[str, str]]:
        """(member, tap) of both sides; none for predictions."""
        sides = ((self.transfer.source, self.source_tap), (self.transfer.learner, self.learner_tap))
        return [(name, tap) for name, tap in sides if tap is not None]

    def __call__(self, source: Tensor, learner: Tensor) -> Tensor:
        """The weighted loss; the source's side comes in detached."""
        if self.projector is not None:
            if projected_side(self.projector) == 'source':
                source = self.projector(source)
            else:
                learner = self.projector(learner)
        return self.transfer.weight * self.loss(learner, source)


def make_lessons(
    members: Mapping[str, nn.Module],
    transfers: Sequence[Transfer],
    task: Task,
    input_size: Sequence[int],
) -> list[Lesson]:
    """Builds and checks the losses and projectors of all transfers with a weight above 0.

    Args:
        members: All members, by name.
        transfers: The plan.
        task: The members' task.
        input_size: (H, W) of the blank image.

    Raises:
        ValueError: If a tap does not exist, or what it gives does not fit; both sides' names and
            shapes are in the message, and the projector that would help.
    """
    transfers = [transfer for transfer in transfers if transfer.weight > 0]
    taps = [
        tuple(
            _tap(members[name], own, transfer, task)
            for name, own in (
                (transfer.source, transfer.source_tap),
                (transfer.learner, transfer.learner_tap),
            )
        )
        for transfer in transfers
    ]
    wanted: dict[str, set[str]] = {name: set() for name in members}
    for transfer, (source_tap, learner_tap) in zip(transfers, taps, strict=True):
        for name, tap in ((transfer.source, source_tap), (transfer.learner, learner_tap)):
            if tap is not None:
                wanted[name].add(tap)
    observed = {
        name: try_member(member, task, wanted[name], input_size, name)
        for name, member in members.items()
        if any(name in (transfer.source, transfer.learner) for transfer in transfers)
    }
    lessons = []
    seen: Counter[str] = Counter()
    for transfer, (source_tap, learner_tap) in zip(transfers, taps, strict=True):
        source = observed[transfer.source].knowledge_at(source_tap)
        learner = observed[transfer.learner].knowledge_at(learner_tap)
        loss = _built(transfer.loss or dict(type=LOSS_TYPES[transfer.knowledge]))
        projector = _projector(transfer.projector, source, learner)
        seen[transfer.key] += 1
        key = transfer.key if seen[transfer.key] == 1 else f'{transfer.key}_{seen[transfer.key]}'
        lesson = Lesson(
            transfer,
            key,
            source_tap,
            learner_tap,
            loss,
            projector,
            tuple(source.shape),
            tuple(learner.shape),
        )
        _check_shapes(lesson, source, learner)
        lessons.append(lesson)
    return lessons


def projected_side(projector: nn.Module) -> str:
    """``'learner'`` or ``'source'``."""
    return getattr(projector, 'side', 'learner')


def _tap(member: nn.Module, own: str | None, transfer: Transfer, task: Task) -> str | None:
    return None if transfer.knowledge == PREDICTIONS else own or task.default_tap(member)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """All modules in eval mode and without gradients; afterwards each as it was."""
    states = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in states:
            part.training = training


def try_member(
    member: nn.Module,
    task: Task,
    taps: Iterable[str],
    input_size: Sequence[int],
    name: str = 'the network',
) -> Observation:
    """What one forward shows on a blank image (1, 3, H, W), in eval mode."""
    parameter = next(member.parameters())
    image = torch.zeros((1, 3, *input_size), dtype=parameter.dtype, device=parameter.device)
    with evaluating(member), TapRecorder(member, sorted(taps)) as recorder:
        return Observation(task.logits(member, image), recorder, name)


def _built(config_or_module: Any) -> nn.Module:
    return (
        config_or_module
        if isinstance(config_or_module, nn.Module)
        else MODELS.build(config_or_module)
    )


def _projector(config: Any, source: Tensor, learner: Tensor) -> nn.Module | None:
    if config is None or isinstance(config, nn.Module):
        return config
    config = dict(config)
    sides = (source, learner) if config.get('side') == 'source' else (learner, source)
    kind = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    for argument, side in zip(('in_channels', 'out_channels'), sides, strict=True):
        if argument in inspect.signature(kind).parameters:
            config.setdefault(argument, side.shape[1])
    return MODELS.build(config)


def _check_shapes(lesson: Lesson, source: Tensor, learner: Tensor) -> None:
    """Refuses two sides of different shapes, unless the loss says that it compares such."""
    before = {'source': tuple(source.shape), 'learner': tuple(learner.shape)}
    if lesson.projector is not None:
        side = projected_side(lesson.projector)
        with evaluating(lesson.projector):
            projected = lesson.projector(source if side == 'source' else learner)
        source, learner = (projected, learner) if side == 'source' else (source, projected)
    if source.shape == learner.shape or not getattr(lesson.loss, 'requires_same_shape', True):
        return
    transfer = lesson.transfer
    sides = ' and '.join(
        f'{name} gives {tuple(tensor.shape)}'
        + (f' at the tap {tap!r}' if tap else '')
        + (f' ({before[role]} before its projector)' if before[role] != tuple(tensor.shape) else '')
        for role, name, tensor, tap in (
            ('source', transfer.source, source, lesson.source_tap),
            ('learner', transfer.learner, learner, lesson.learner_tap),
        )
    )
    raise ValueError(f'The transfer {transfer} cannot be: {sides}. {_advice(source, learner)}')


def _advice(source: Tensor, learner: Tensor) -> str:
    if source.ndim != learner.ndim:
        return 'Choose taps that give the same kind of tensor'
    if source.ndim == 4 and source.shape[1] == learner.shape[1]:
        factor = source.shape[2] / learner.shape[2]
        return f'Add projector=dict(type=InterpolateProjector, scale_factor={factor:g})'
    if source.shape[2:] == learner.shape[2:]:
        kind = 'ConvProjector' if source.ndim == 4 else 'LinearProjector'
        return (
            f'For features, add projector=dict(type={kind}), which learns to map '
            f'{learner.shape[1]} to {source.shape[1]} channels; for predictions, give both the '
            'same classes'
        )
    return 'Choose taps whose maps have the same height and width'
