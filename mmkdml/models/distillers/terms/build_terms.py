"""Building and validating the loss and the projector of every transfer.

Each member runs once on a blank image. The shapes of its logits and feature maps determine the
channels of losses and projectors, and shapes that do not match raise before training starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmkdml.models.distillers.members import evaluating, probe_member
from mmkdml.models.distillers.terms.advice import (
    Advise,
    ShapeMismatchError,
    check_shapes,
    needs_maps,
    shapes_of,
    transfer_advice,
    with_advice,
)
from mmkdml.models.distillers.terms.transfer_terms import (
    MemberOutputs,
    Outputs,
    Shape,
    TransferTerm,
    project,
    tap_names,
)
from mmkdml.models.distillers.validation import reraise_as_value_error
from mmkdml.models.layouts import layout_of
from mmkdml.models.projectors import MapProjector
from mmkdml.models.tasks import Task
from mmkdml.models.transfers import Tap, Transfer
from mmkdml.modes import PREDICTIONS
from mmkdml.registry import MODELS, build_with_inferred


def build_transfer_terms(
    members: Mapping[str, nn.Module],
    transfers: Sequence[Transfer],
    task: Task,
    input_size: Sequence[int],
    advise: Advise = transfer_advice,
    normalized_channels: int | None = None,
) -> list[TransferTerm]:
    """Build and validate the loss and the projector of every transfer with a positive weight.

    Args:
        members: Members by name.
        transfers: Transfers in the order of the losses.
        task: Task of the members.
        input_size: (H, W) of the blank image.
        advise: Words the changes with which invalid transfers are valid, for the error message.
        normalized_channels: Number of channels that the preprocessor of the batch normalizes.
            Default: any.

    Raises:
        ValueError: If members or the preprocessor expect images of different channels, a tap does
            not exist, a loss or projector is invalid, or shapes do not match; the message then has
            both members, taps and shapes, and how to fix them.
    """
    terms, mismatches = _Builder(members, task, input_size, normalized_channels).build(transfers)
    if not mismatches:
        return terms

    def attempt(changed: Transfer) -> None:
        for error in _Builder(members, task, input_size).build([changed])[1]:
            raise error

    def tappable(name: str) -> Iterator[tuple[str, Shape]]:
        names = [module for module, _ in members[name].named_modules() if module]
        recorder = probe_member(members[name], task, names, input_size).taps
        for module in reversed(recorder.order):
            with suppress(ValueError):
                shape = tuple(recorder[module].shape)
                layout = layout_of(members[name], module, shape, input_size)
                yield module, layout.map_shape(shape) if layout else shape

    raise ValueError(with_advice(mismatches, attempt, tappable, advise))


@dataclass
class _Builder:
    members: Mapping[str, nn.Module]
    task: Task
    input_size: Sequence[int]
    normalized_channels: int | None = None
    outputs: dict[str, MemberOutputs] = field(default_factory=dict)

    def build(
        self, transfers: Sequence[Transfer]
    ) -> tuple[list[TransferTerm], list[ShapeMismatchError]]:
        """Return the valid terms, and the errors of transfers whose outputs differ in shape."""
        transfers = [self.task.with_loss(one) for one in transfers if not one.is_off]
        self._probe_members(transfers)
        terms, mismatches = [], []
        seen: Counter[str] = Counter()
        for transfer in transfers:
            seen[transfer.key] += 1
            number = f'_{seen[transfer.key]}' if seen[transfer.key] > 1 else ''
            try:
                terms.append(self._build_term(transfer, transfer.key + number))
            except ShapeMismatchError as error:
                mismatches.append(error)
            except Exception as error:
                raise ValueError(f'Invalid transfer {transfer}: {error}') from error
        return terms, mismatches

    def _probe_members(self, transfers: Sequence[Transfer]) -> None:
        taps: dict[str, set[str]] = {}
        for transfer in transfers:
            source_tap, learner_tap = self._taps(transfer)
            taps.setdefault(transfer.source, set()).update(tap_names(source_tap))
            taps.setdefault(transfer.learner, set()).update(tap_names(learner_tap))
        for name, member in self.members.items():
            if name in taps:
                self.outputs[name] = probe_member(
                    member, self.task, taps[name], self.input_size, name
                )
        self._check_input_channels()

    def _check_input_channels(self) -> None:
        """Raise ``ValueError`` unless all members and the normalization are for the same images."""
        channels = {name: outputs.input_channels for name, outputs in self.outputs.items()}
        if channels and self.normalized_channels:
            channels['the mean of data_preprocessor'] = self.normalized_channels
        if len({*channels.values()}) > 1:
            found = ', '.join(f'{name}: {number}' for name, number in channels.items())
            raise ValueError(
                'Invalid input channels: expected the same number for all members and their '
                f'preprocessor, which share a batch, got {found}. Set in_channels of the backbones '
                'and one value per channel in mean and std'
            )

    def _taps(self, transfer: Transfer) -> tuple[Tap, Tap]:
        if transfer.knowledge == PREDICTIONS:
            return None, None
        return (
            transfer.source_tap or self.task.default_tap(self.members[transfer.source]),
            transfer.learner_tap or self.task.default_tap(self.members[transfer.learner]),
        )

    def _build_term(self, transfer: Transfer, key: str) -> TransferTerm:
        source_tap, learner_tap = self._taps(transfer)
        source = self.outputs[transfer.source].select(source_tap)
        learner = self.outputs[transfer.learner].select(learner_tap)
        shapes = shapes_of(source), shapes_of(learner)
        layouts = (
            self._layouts(transfer.source, source_tap, shapes[0]),
            self._layouts(transfer.learner, learner_tap, shapes[1]),
        )
        projector = _build_projector(transfer.projector, source, learner, layouts)
        with evaluating(*([projector] if projector else [])):
            source, learner = project(projector, source, learner, transfer.resize)
        loss = build_module(
            'loss',
            transfer.loss,
            learner_channels=_channels(learner),
            source_channels=_channels(source),
            num_classes=self.task.num_classes(self.members[transfer.learner]),
            multi_label=self.task.multi_label,
        )
        _check_detection(loss, transfer, self.task)
        if transfer.knowledge == PREDICTIONS:
            self.task.check_prediction_loss(loss)
        term = TransferTerm(
            transfer, key, source_tap, learner_tap, loss, projector, *shapes, *layouts
        )
        check_shapes(term, source, learner)
        try:
            self._try_loss(term, source, learner)
        except ValueError as error:
            if needs_maps(term):
                raise ShapeMismatchError(term, source, learner, str(error)) from error
            raise
        return term

    def _layouts(self, name: str, tap: Tap, shapes: Any) -> Any:
        if tap is None:
            return None
        if not isinstance(tap, str):
            return [self._layouts(name, *one) for one in zip(tap, shapes, strict=True)]
        return layout_of(self.members[name], tap, shapes, self.input_size)

    def _try_loss(self, term: TransferTerm, source: Outputs, learner: Outputs) -> None:
        """Compute the loss for a batch of two blank images, as some losses compare images."""
        member = self.members[term.transfer.source]
        with evaluating(term.loss):
            device = next(member.parameters()).device
            samples = [x.to(device) for x in self.task.dummy_samples(2, self.input_size)]
            extra = term.extra_loss_inputs(self.task, member, samples)
            term.loss(_repeat(learner), _repeat(source), *extra)


def build_module(part: str, config_or_module: Any, **inferred: Any) -> nn.Module:
    """Build a module from its config, with the inferred arguments that its constructor accepts.

    Raises:
        ValueError: If the config is invalid, or the result is not a module.
    """
    if isinstance(config_or_module, nn.Module):
        return config_or_module
    with reraise_as_value_error(f'{part} {config_or_module!r} is invalid'):
        built = build_with_inferred(config_or_module, **inferred)
    if not isinstance(built, nn.Module):
        raise ValueError(f'{part} must be a module or its config, got {config_or_module!r}')
    return built


def _check_detection(loss: nn.Module, transfer: Transfer, task: Task) -> None:
    """Raise ``ValueError`` if a loss is for the predictions or ground truth of other tasks."""
    detection, name = task.name == 'detection', type(loss).__name__
    compares_features = transfer.knowledge != PREDICTIONS and not getattr(
        loss, 'needs_truth', False
    )
    if compares_features or getattr(loss, 'for_detection', False) == detection:
        return
    if not detection:
        raise ValueError(f'{name} is only for detection, got members for {task.name}')
    raise ValueError(
        f'{name} is not for detection: it compares logits of classes or needs a class per image or '
        "pixel. Use DetectionPredictionLoss with knowledge='predictions', FGDLoss with 'features', "
        'or a loss on features without ground truth. A loss of your own on boxes needs the '
        'attribute for_detection = True'
    )


def _class_of(config: Mapping[str, Any]) -> Any:
    kind = config.get('type')
    return MODELS.get(kind) if isinstance(kind, str) else kind


def _build_projector(
    projector: Any, source: Outputs, learner: Outputs, layouts: tuple[Any, Any] = (None, None)
) -> nn.Module | None:
    if projector is None:
        return None
    if isinstance(projector, Mapping) and _class_of(projector) is MapProjector:
        settings = dict(zip(('source_layout', 'learner_layout'), layouts, strict=True))
        settings |= projector
        inner = settings.pop('projector', None)
        layout: Any = build_module('projector', settings)
        maps = layout.as_maps(source, learner)
        return build_module('projector', {**settings, 'projector': _build_projector(inner, *maps)})
    if isinstance(projector, MapProjector):
        return projector
    if isinstance(source, list) or isinstance(learner, list):
        raise ValueError(
            'a projector needs one tap on each side, got several. Add one transfer for each pair '
            'of taps'
        )
    on_source = isinstance(projector, Mapping) and projector.get('side') == 'source'
    own, other = (source, learner) if on_source else (learner, source)
    return build_module(
        'projector',
        projector,
        in_channels=own.shape[1],
        out_channels=other.shape[1],
        in_size=tuple(own.shape[2:]),
        out_size=tuple(other.shape[2:]),
    )


def _channels(outputs: Outputs) -> int | list[int]:
    return [x.shape[1] for x in outputs] if isinstance(outputs, list) else outputs.shape[1]


def _repeat(outputs: Outputs) -> Outputs:
    """Repeat the only image of a batch."""
    if isinstance(outputs, list):
        return [torch.cat([x, x]) for x in outputs]
    return torch.cat([outputs, outputs])
