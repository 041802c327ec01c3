"""From a list of transfers to losses and projectors that were seen to fit.

Every member runs once on a blank image; the shapes of logits and feature maps give the channels of
projectors, and what does not fit is refused before the training starts.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from mmkdml.models.distillers.advice import (
    Advise,
    ShapeMismatchError,
    check_shapes,
    shapes_of,
    transfer_advice,
    with_advice,
)
from mmkdml.models.distillers.transfer_terms import (
    MemberOutputs,
    Outputs,
    Shape,
    TransferTerm,
    tap_names,
)
from mmkdml.models.distillers.validation import reraise_as_value_error
from mmkdml.models.losses import FeatureMSELoss, PredictionKLLoss
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import Task
from mmkdml.models.transfers import FEATURES, PREDICTIONS, Tap, Transfer
from mmkdml.registry import MODELS

LOSS_TYPES: dict[str, type[nn.Module]] = {PREDICTIONS: PredictionKLLoss, FEATURES: FeatureMSELoss}


def build_transfer_terms(
    members: Mapping[str, nn.Module],
    transfers: Sequence[Transfer],
    task: Task,
    input_size: Sequence[int],
    advise: Advise | None = transfer_advice,
) -> list[TransferTerm]:
    """Builds and checks the losses and projectors of all transfers with a weight above 0.

    Args:
        members: All members, by name.
        transfers: The plan.
        task: The members' task.
        input_size: (H, W) of the blank image.
        advise: How a user sets what a transfer lacks; None to give no advice.

    Raises:
        ValueError: If a tap does not exist, or what it gives does not fit; both sides' names and
            shapes are in the message, and the settings with which the transfer was seen to fit.
    """
    transfers = [transfer for transfer in transfers if transfer.weight > 0]
    taps = [
        (
            _tap(members[transfer.source], transfer.source_tap, transfer, task),
            _tap(members[transfer.learner], transfer.learner_tap, transfer, task),
        )
        for transfer in transfers
    ]
    wanted: dict[str, set[str]] = {name: set() for name in members}
    for transfer, (source_tap, learner_tap) in zip(transfers, taps, strict=True):
        wanted[transfer.source].update(tap_names(source_tap))
        wanted[transfer.learner].update(tap_names(learner_tap))
    observed = {
        name: probe_member(member, task, wanted[name], input_size, name)
        for name, member in members.items()
        if any(name in (transfer.source, transfer.learner) for transfer in transfers)
    }
    terms = []
    mismatches: list[ShapeMismatchError] = []
    seen: Counter[str] = Counter()
    for transfer, (source_tap, learner_tap) in zip(transfers, taps, strict=True):
        source = observed[transfer.source].select(source_tap)
        learner = observed[transfer.learner].select(learner_tap)
        with _naming(transfer):
            projector = _projector(transfer, source, learner)
        seen[transfer.key] += 1
        key = transfer.key if seen[transfer.key] == 1 else f'{transfer.key}_{seen[transfer.key]}'
        term = TransferTerm(
            transfer,
            key,
            source_tap,
            learner_tap,
            nn.Identity(),
            projector,
            shapes_of(source),
            shapes_of(learner),
        )
        with _naming(transfer, Exception), evaluating(*([projector] if projector else [])):
            source, learner = term.projected(source, learner)
        num_classes = task.num_classes(members[transfer.learner])
        with _naming(transfer):
            term.loss = _loss(transfer, source, learner, num_classes)
        try:
            check_shapes(term, source, learner)
        except ShapeMismatchError as error:
            mismatches.append(error)
            continue
        with _naming(transfer, Exception):
            _try_loss(term, source, learner, task, members[transfer.source], input_size)
        terms.append(term)
    if not mismatches:
        return terms
    if advise is None:
        raise mismatches[0]

    def attempt(changed: Transfer) -> None:
        build_transfer_terms(members, [changed], task, input_size, advise=None)

    def outputs(name: str) -> Iterator[tuple[str, Shape]]:
        yield from _outputs(members[name], task, input_size)

    raise ValueError(with_advice(mismatches, attempt, outputs, advise))


def _outputs(
    member: nn.Module, task: Task, input_size: Sequence[int]
) -> Iterator[tuple[str, Shape]]:
    """Name and shape of all modules that can be tapped, the last in the forward pass first."""
    names = [name for name, _ in member.named_modules() if name]
    recorder = probe_member(member, task, names, input_size).taps
    for name in reversed(recorder.order):
        with suppress(ValueError):
            yield name, tuple(recorder[name].shape)


def _tap(member: nn.Module, own: Tap, transfer: Transfer, task: Task) -> Tap:
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


def probe_member(
    member: nn.Module,
    task: Task,
    taps: Iterable[str],
    input_size: Sequence[int],
    name: str = 'the network',
) -> MemberOutputs:
    """What one forward shows on a blank image (1, 3, H, W), in eval mode.

    Raises:
        ValueError: If a tap is none, or the member cannot take the image.
    """
    parameter = next(member.parameters())
    with evaluating(member), TapRecorder(member, sorted(taps)) as recorder:
        with reraise_as_value_error(
            f'{name} cannot take an image of the input_size {tuple(input_size)}'
        ):
            image = torch.zeros((1, 3, *input_size), dtype=parameter.dtype, device=parameter.device)
            logits = task.logits(member, image)
        return MemberOutputs(logits, recorder, name)


@contextmanager
def _naming(transfer: Transfer, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Name the transfer in errors of the block."""
    try:
        yield
    except kind as error:
        raise ValueError(f'Invalid transfer {transfer}: {error}') from error


def _built(part: str, config_or_module: Any, **facts: Any) -> nn.Module:
    """A module from its config, which the facts complete that its class has a parameter for."""
    if isinstance(config_or_module, nn.Module):
        return config_or_module
    with reraise_as_value_error(f'its {part} {config_or_module!r} cannot be built'):
        config = dict(config_or_module)
        kind = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
        known = inspect.signature(kind).parameters if kind else ()
        built = MODELS.build({**{key: facts[key] for key in facts if key in known}, **config})
    if not isinstance(built, nn.Module):
        raise ValueError(f'its {part} must be a module or its config, got {config_or_module!r}')
    return built


def _projector(transfer: Transfer, source: Outputs, learner: Outputs) -> nn.Module | None:
    if transfer.projector is None:
        return None
    if isinstance(source, list) or isinstance(learner, list):
        raise ValueError(
            'a projector serves one tap on each side; make it one transfer for each pair of taps'
        )
    projector = transfer.projector
    by_source = isinstance(projector, Mapping) and projector.get('side') == 'source'
    own, other = (source, learner) if by_source else (learner, source)
    return _built(
        'projector',
        projector,
        in_channels=own.shape[1],
        out_channels=other.shape[1],
        in_size=tuple(own.shape[2:]),
        out_size=tuple(other.shape[2:]),
    )


def _loss(transfer: Transfer, source: Outputs, learner: Outputs, num_classes: int) -> nn.Module:
    return _built(
        'loss',
        transfer.loss or dict(type=LOSS_TYPES[transfer.knowledge]),
        learner_channels=_channels(learner),
        source_channels=_channels(source),
        num_classes=num_classes,
    )


def _channels(shown: Outputs) -> int | list[int]:
    return [tensor.shape[1] for tensor in shown] if isinstance(shown, list) else shown.shape[1]


def _try_loss(
    term: TransferTerm,
    source: Outputs,
    learner: Outputs,
    task: Task,
    source_member: nn.Module,
    input_size: Sequence[int],
) -> None:
    """Computes the loss once, of the blank image twice, for some compare the images of a batch."""
    with evaluating(term.loss):
        device = next(source_member.parameters()).device
        samples = [sample.to(device) for sample in task.dummy_samples(2, input_size)]
        given = term.given(task, source_member, samples)
        term.loss(_twice(learner), _twice(source), *given)


def _twice(shown: Outputs) -> Outputs:
    return [torch.cat([t, t]) for t in shown] if isinstance(shown, list) else torch.cat([shown] * 2)
