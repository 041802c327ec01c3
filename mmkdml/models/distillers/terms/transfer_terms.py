"""Transfers with their built losses and projectors, and the outputs that they compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdml.models.layouts import Layout
from mmkdml.models.projectors import MapProjector
from mmkdml.models.tasks import Task
from mmkdml.models.tasks.base import Samples
from mmkdml.models.transfers import Tap, Transfer
from mmkdml.models.weighting import WeightSchedule

#: Logits or one feature map, or a list of feature maps if there are several taps.
Outputs = Tensor | list[Tensor]
Shape = tuple[int, ...]


@dataclass
class MemberOutputs:
    """Logits and feature maps of one forward pass of a member.

    Args:
        logits: Logits; None if the head does not return a single tensor.
        taps: Feature maps by tap name: a :class:`TapRecorder`, or a dict of cached maps.
        member: Name of the member, for error messages.
        input_channels: Channels of the images; None if unknown.
    """

    logits: Tensor | None
    taps: Any
    member: str = 'the network'
    input_channels: int | None = None

    def select(self, tap: Tap) -> Outputs:
        """Return the feature map of a tap, the list of maps of several taps, or logits for None.

        Raises:
            ValueError: If there are no logits, or see :class:`TapRecorder`.
        """
        if isinstance(tap, str):
            return self.taps[tap]
        if tap is not None:
            return [self.taps[name] for name in tap]
        if self.logits is None:
            raise ValueError(
                f'Invalid head of {self.member}: expected a single tensor of logits, which a '
                'transfer of predictions compares, got another output. Transfer features, or use '
                'another head'
            )
        return self.logits


@dataclass
class TransferTerm:
    """One term of the training loss: a transfer with its built loss and projector.

    Args:
        transfer: The transfer.
        key: Key of the loss in the log, unique within a classroom.
        source_tap: Taps of the source; None for logits.
        learner_tap: Taps of the learner; None for logits.
        loss: Module with the interface of :class:`mmkdml.models.losses.TransferLoss`.
        projector: Module that projects one side; None to compare the outputs as they are.
        source_shape: Shapes of the source's outputs for one image, before the projector.
        learner_shape: Shapes of the learner's outputs for one image, before the projector.
        source_layout: Layouts of the source's feature maps; None for logits and vectors.
        learner_layout: Layouts of the learner's feature maps.

    Attributes:
        weight: Weight in this step: a number, or with a schedule a tensor, so that
            ``torch.compile`` does not take it for a constant.
        active: Whether the weight is positive; otherwise the loss is not computed.
    """

    transfer: Transfer
    key: str
    source_tap: Tap
    learner_tap: Tap
    loss: nn.Module
    projector: nn.Module | None
    source_shape: Shape | list[Shape] = ()
    learner_shape: Shape | list[Shape] = ()
    source_layout: Layout | list[Layout | None] | None = None
    learner_layout: Layout | list[Layout | None] | None = None

    def __post_init__(self) -> None:
        self.weight: Any = self.transfer.weight
        self.active = True
        self._is_set = not self.transfer.schedule
        if self.transfer.schedule:
            self.weight = torch.zeros(())
            self.set_weight(self.build_schedule().value)
            self._is_set = False  # TransferWeightHook sets it in each step.

    def build_schedule(self, *length: int) -> WeightSchedule:
        """Build the schedule at its first step; see :class:`WeightSchedule`."""
        return WeightSchedule(self.transfer, *length)

    def set_weight(self, weight: float) -> None:
        """Set the weight >= 0 of a transfer with a schedule for the next steps."""
        self.weight.fill_(weight)
        self.active = weight > 0
        self._is_set = True

    def scheduled_weight(self) -> Tensor:
        """Return a copy of the weight of a transfer with a schedule, for the log.

        Raises:
            ValueError: In training, if :meth:`set_weight` was never called.
        """
        if not self._is_set and torch.is_grad_enabled():
            raise ValueError(
                f'Invalid training of the transfer {self.transfer}: its weight has a schedule, but '
                'nothing sets the weight. Add dict(type=mmkdml.engine.TransferWeightHook) to '
                'custom_hooks; without a runner, call set_weight of each transfer_terms in every '
                'step'
            )
        return self.weight.clone()

    def member_taps(self) -> list[tuple[str, str]]:
        """Return (member, tap) for each tap of both sides; empty for predictions."""
        sides = ((self.transfer.source, self.source_tap), (self.transfer.learner, self.learner_tap))
        return [(name, tap) for name, taps in sides for tap in tap_names(taps)]

    def extra_loss_inputs(self, task: Task, source: nn.Module, samples: Samples) -> list[Any]:
        """Return the loss inputs besides the two sides: labels and the source's classifier."""
        inputs: list[Any] = []
        if getattr(self.loss, 'needs_truth', False):
            inputs.append(task.truth(samples))
        if getattr(self.loss, 'needs_source_classifier', False):
            inputs.append(task.classifier(source))
        return inputs

    def __call__(
        self, source: Outputs, learner: Outputs, *extra_loss_inputs: Any
    ) -> dict[str, Tensor]:
        """Compute the weighted losses by key for detached outputs of the source."""
        source, learner = project(self.projector, source, learner, self.transfer.resize)
        losses = {self.key: self.weight * self.loss(learner, source, *extra_loss_inputs)}
        discriminator_loss = getattr(self.loss, 'discriminator_loss', None)
        if discriminator_loss is not None:
            error = discriminator_loss(learner, source)
            losses[f'{self.key}.discriminator'] = self.loss.discriminator_weight * error
        return losses


def project(
    projector: nn.Module | None, source: Outputs, learner: Outputs, resize: str | None = None
) -> tuple[Outputs, Outputs]:
    """Apply a projector to its side, resize to a side, and return both, the source's first.

    Raises:
        ValueError: If ``resize`` is set, and an output is not a single map.
    """
    if isinstance(projector, MapProjector):
        source, learner = projector.as_maps(source, learner)
    if projector is None or (isinstance(projector, MapProjector) and projector.projector is None):
        pass
    elif projector_side(projector) == 'source':
        source = projector(source)
    else:
        learner = projector(learner)
    if resize == 'source':
        learner = _resized(learner, source)
    elif resize == 'learner':
        source = _resized(source, learner)
    return source, learner


def _resized(outputs: Outputs, like: Outputs) -> Tensor:
    if isinstance(outputs, list) or isinstance(like, list) or {outputs.ndim, like.ndim} != {4}:
        shapes = [
            [tuple(x.shape) for x in one] if isinstance(one, list) else tuple(one.shape)
            for one in (outputs, like)
        ]
        raise ValueError(
            f'Invalid resize: expected one map (N, C, H, W) of each side, got {shapes[0]} and '
            f'{shapes[1]}. Remove resize'
        )
    if outputs.shape[2:] == like.shape[2:]:
        return outputs
    return F.interpolate(outputs, like.shape[2:], mode='bilinear')


def projector_side(projector: nn.Module) -> str:
    """Return the side that a projector is applied to, ``'learner'`` or ``'source'``."""
    return getattr(projector, 'side', 'learner')


def detach_source(outputs: Outputs) -> Outputs:
    """Detach the outputs of a source, so that no gradient flows into it.

    Autograd cannot save inference tensors for the backward pass; for these, normal tensors that
    share their memory are returned.
    """
    if isinstance(outputs, list):
        return [_as_normal(x) if x.is_inference() else x.detach() for x in outputs]
    return detach_source([outputs])[0]


def _as_normal(tensor: Tensor) -> Tensor:
    layout = tensor.storage_offset(), tensor.shape, tensor.stride()
    return tensor.new_empty(0).set_(tensor.untyped_storage(), *layout)


def weight_losses(name: str, losses: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """Prefix the keys of a member's log with its name, and weight those that contain "loss"."""
    weighted = {}
    for key, value in losses.items():
        if 'loss' in key and weight != 1:
            several = isinstance(value, (list, tuple))
            value = [weight * part for part in value] if several else weight * value
        weighted[f'{name}.{key}'] = value
    return weighted


def tap_names(tap: Tap) -> tuple[str, ...]:
    """Return the names of a tap as a tuple; empty for None."""
    return (tap,) if isinstance(tap, str) else tuple(tap or ())
