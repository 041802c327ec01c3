"""A transfer made ready: what is taken where, and how it is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmkdml.models.tasks import Task
from mmkdml.models.tasks.base import Samples
from mmkdml.models.transfers import Tap, Transfer

#: Logits or one map, or the maps of several taps.
Outputs = Tensor | list[Tensor]
Shape = tuple[int, ...]


@dataclass
class MemberOutputs:
    """What one forward of one member showed."""

    logits: Tensor | None
    taps: Any  # a map by each tap's name: a TapRecorder, or what was kept of one
    member: str = 'the network'

    def select(self, tap: Tap) -> Outputs:
        """The map of a tap, the list of those of several, or the logits if no tap is named.

        Raises:
            ValueError: If the head gives no logits, or see :class:`TapRecorder`.
        """
        if isinstance(tap, str):
            return self.taps[tap]
        if tap is not None:
            return [self.taps[name] for name in tap]
        if self.logits is None:
            raise ValueError(
                f'The head of {self.member} gives no single tensor of logits, so its predictions '
                'cannot be handed on or compared; hand over features, or use another head'
            )
        return self.logits


@dataclass
class TransferTerm:
    """A transfer with its built loss and projector.

    What may be a loss says :class:`mmkdml.models.losses.TransferLoss`.
    """

    transfer: Transfer
    key: str
    source_tap: Tap
    learner_tap: Tap
    loss: nn.Module
    projector: nn.Module | None
    source_shape: Shape | list[Shape] = ()  # of one image, before the projector
    learner_shape: Shape | list[Shape] = ()

    def tapped(self) -> list[tuple[str, str]]:
        """(member, tap) of both sides; none for predictions."""
        sides = ((self.transfer.source, self.source_tap), (self.transfer.learner, self.learner_tap))
        return [(name, tap) for name, taps in sides for tap in tap_names(taps)]

    def given(self, task: Task, source: nn.Module, samples: Samples) -> list[Any]:
        """What the loss takes besides the two sides."""
        given: list[Any] = []
        if getattr(self.loss, 'needs_truth', False):
            given.append(task.truth(samples))
        if getattr(self.loss, 'needs_source_classifier', False):
            given.append(task.classifier(source))
        return given

    def projected(self, source: Outputs, learner: Outputs) -> tuple[Outputs, Outputs]:
        """Both sides as they are compared."""
        if self.projector is None:
            return source, learner
        if projector_side(self.projector) == 'source':
            return self.projector(source), learner
        return source, self.projector(learner)

    def __call__(self, source: Outputs, learner: Outputs, *given: Any) -> dict[str, Tensor]:
        """The weighted losses by their keys; the source's side comes in detached."""
        source, learner = self.projected(source, learner)
        losses = {self.key: self.transfer.weight * self.loss(learner, source, *given)}
        discriminator_loss = getattr(self.loss, 'discriminator_loss', None)
        if discriminator_loss is not None:
            error = discriminator_loss(learner, source)
            losses[f'{self.key}.discriminator'] = self.loss.discriminator_weight * error
        return losses


def detach_source(shown: Outputs) -> Outputs:
    """What a source gives to a learner: no gradient flows back to the source.

    Autograd refuses to save an inference tensor, but not a normal one of the same memory.
    """
    if isinstance(shown, list):
        return [_normal(x) if x.is_inference() else x.detach() for x in shown]
    return detach_source([shown])[0]


def _normal(tensor: Tensor) -> Tensor:
    place = tensor.storage_offset(), tensor.shape, tensor.stride()
    return tensor.new_empty(0).set_(tensor.untyped_storage(), *place)


def weighted(name: str, losses: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """Prefix a member's log with its name and weight what is optimized ("loss" in the key)."""
    values = {}
    for key, value in losses.items():
        if 'loss' in key and weight != 1:
            several = isinstance(value, (list, tuple))
            value = [weight * part for part in value] if several else weight * value
        values[f'{name}.{key}'] = value
    return values


def tap_names(tap: Tap) -> tuple[str, ...]:
    """The names in a tap: one, several, or none."""
    return (tap,) if isinstance(tap, str) else tuple(tap or ())


def projector_side(projector: nn.Module) -> str:
    """``'learner'`` or ``'source'``."""
    return getattr(projector, 'side', 'learner')
