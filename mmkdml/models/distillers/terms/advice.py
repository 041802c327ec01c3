"""Advice in error messages: settings that make a transfer of mismatching shapes valid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from mmkdml.commands import tool_command
from mmkdml.models.distillers.terms.transfer_terms import Outputs, Shape, TransferTerm
from mmkdml.models.layouts import CHANNELS_LAST, MAP, Layout
from mmkdml.models.losses import FeatureMSELoss
from mmkdml.models.projectors import MapProjector
from mmkdml.models.transfers import Transfer
from mmkdml.modes import FEATURES

#: New values of a transfer's arguments, by name.
Change = dict[str, Any]
#: Words advice for transfers and their changes.
Advise = Callable[[Sequence[tuple[Transfer, Change]]], str]
#: Builds a changed transfer; raises ``ValueError`` if it is invalid.
Attempt = Callable[[Transfer], None]
#: Yields name and shape (as a map, if it is one) of modules that can be tapped, the last one first.
TappableModules = Callable[[str], Iterable[tuple[str, Shape]]]


class ShapeMismatchError(ValueError):
    """Error for outputs of different shapes in a loss that requires the same shape."""

    def __init__(
        self, term: TransferTerm, source: Outputs, learner: Outputs, reason: str = ''
    ) -> None:
        self.term = term
        changed_by = 'resize' if term.projector is None else 'projector'
        sides = ' and '.join(
            f'{shapes_of(outputs)} of {name}'
            + (f' at the tap {tap!r}' if tap else '')
            + (f' ({before} before its {changed_by})' if before != shapes_of(outputs) else '')
            + (f' ({layout})' if str(layout or '') else '')
            for name, outputs, tap, before, layout in (
                (
                    term.transfer.source,
                    source,
                    term.source_tap,
                    term.source_shape,
                    term.source_layout,
                ),
                (
                    term.transfer.learner,
                    learner,
                    term.learner_tap,
                    term.learner_shape,
                    term.learner_layout,
                ),
            )
        )
        super().__init__(
            f'Invalid transfer {term.transfer}: expected '
            f'{"maps" if needs_maps(term) else "outputs"} of the same shape, got {sides}'
            + (f'. {reason}' if reason else '')
        )


def shapes_of(outputs: Outputs) -> Any:
    """Return the shape of a tensor, or the shapes of a list of tensors."""
    return [tuple(x.shape) for x in outputs] if isinstance(outputs, list) else tuple(outputs.shape)


def check_shapes(term: TransferTerm, source: Outputs, learner: Outputs) -> None:
    """Check that both sides have the same shape if the loss requires it.

    Raises:
        ShapeMismatchError: If the shapes differ, or a loss on maps gets channels-last maps.
        ValueError: If there are several taps, and the loss supports only one on each side.
    """
    if _mixes_up_layouts(term):
        raise ShapeMismatchError(term, source, learner)
    if not getattr(term.loss, 'requires_same_shape', True):
        return
    if isinstance(source, list) or isinstance(learner, list):
        raise ValueError(
            f'{type(term.loss).__name__} compares one tap of each side, got several. Add one '
            'transfer for each pair of taps'
        )
    shapes = [tuple(side.shape) for side in (source, learner)]
    if _projects_channels(term):
        shapes = [(*shape[:1], *shape[2:]) for shape in shapes]
    if shapes[0] != shapes[1]:
        raise ShapeMismatchError(term, source, learner)


def with_advice(
    mismatches: Sequence[ShapeMismatchError],
    attempt: Attempt,
    tappable: TappableModules,
    advise: Advise,
) -> str:
    """Return the messages of all mismatches and the changes with which the transfers are valid.

    Args:
        mismatches: Errors of the transfers.
        attempt: Builds a changed transfer, to try a change.
        tappable: Lists the modules of a member that can be tapped.
        advise: Words the changes.
    """
    sentences = [str(error) for error in mismatches]
    fixes = []
    for term in (error.term for error in mismatches):
        change = _find_change(term, attempt, tappable)
        if change is not None:
            fixes.append((term.transfer, change))
        if _differ_in_logits(term):
            sentences.append(
                'Use the same number of logits in the heads of both members (num_classes; for a '
                'segmentor out_channels, too)'
            )
        elif change is None:
            sentences.append(
                'Choose taps with outputs of the same kind; '
                f'{tool_command("list_taps")} lists all taps with their shapes'
            )
    return '. '.join([*dict.fromkeys(sentences), *([advise(fixes)] if fixes else [])])


def transfer_advice(fixes: Sequence[tuple[Transfer, Change]]) -> str:
    """Word advice for the arguments of transfers."""
    return '. '.join(
        f'Set {", ".join(f"{key}={as_code(value)}" for key, value in change.items())} in the '
        f'transfer {transfer.source} -> {transfer.learner} ({transfer.knowledge})'
        for transfer, change in fixes
    )


def as_code(value: Any) -> str:
    """Format a value as Python code for a config."""
    if isinstance(value, Mapping) and all(str(key).isidentifier() for key in value):
        return f'dict({", ".join(f"{key}={as_code(one)}" for key, one in value.items())})'
    if isinstance(value, Mapping):
        return f'{{{", ".join(f"{key!r}: {as_code(one)}" for key, one in value.items())}}}'
    return value.__name__ if isinstance(value, type) else repr(value)


def _find_change(term: TransferTerm, attempt: Attempt, tappable: TappableModules) -> Change | None:
    """Return the first change with which the transfer is valid."""
    if _differ_in_logits(term):  # not tried, because the heads must be changed first
        projector = _projector_for(term)
        return projector and dict(projector=projector)
    completed = (_complete(term, change, attempt) for change in _changes(term, tappable))
    return next((change for change in completed if change is not None), None)


def _complete(term: TransferTerm, change: Change, attempt: Attempt) -> Change | None:
    """Add the projector that a change of taps may need; return None if it remains invalid."""
    try:
        attempt(dataclasses.replace(term.transfer, **change))
    except ShapeMismatchError as mismatch:
        changed = mismatch.term
        source, learner = _map_shapes(changed)
        if 'projector' in change or len(source) != len(learner):
            return None
        return _complete(term, {**change, 'projector': _projector_for(changed)}, attempt)
    except ValueError:
        return None
    return change


def _changes(term: TransferTerm, tappable: TappableModules) -> Iterator[Change]:
    source, learner = _map_shapes(term)
    if len(source) == len(learner):
        yield dict(projector=_projector_for(term))
        return
    # Prefer feature maps to vectors, because maps keep positions.
    sides = [('source', learner), ('learner', source)]
    for side, other in sorted(sides, key=lambda row: -len(row[1])):
        found = list(tappable(getattr(term.transfer, side)))
        equal = [name for name, shape in found if shape == other]
        same_ndim = [name for name, shape in found if len(shape) == len(other)]
        for name in dict.fromkeys([*equal, *same_ndim[:1]]):
            yield {f'{side}_tap': name}


def _projector_for(term: TransferTerm) -> dict[str, Any] | None:
    """Choose a projector for two shapes of the same number of dimensions, None if they match."""
    source, learner = _map_shapes(term)
    resize = source[2:] != learner[2:]
    features = term.transfer.knowledge == FEATURES  # logits are never projected to other channels
    projector: Any = dict(type='mmkdml.InterpolateProjector') if resize else None
    if features and source[1] != learner[1] and not _projects_channels(term):
        kind = 'Conv' if len(source) == 4 else 'Linear'
        projector = dict(type=f'mmkdml.{kind}Projector', **(dict(resize=True) if resize else {}))
    if (source, learner) == (term.source_shape, term.learner_shape) and not _mixes_up_layouts(term):
        return projector
    inner = {} if projector is None else dict(projector=projector)
    return dict(type='mmkdml.MapProjector', **inner)


def _map_shapes(term: TransferTerm) -> tuple[Any, Any]:
    """Return the shapes of both sides, those of tokens and channels-last maps as maps.

    The shapes are unchanged if a side has no map, such as two vectors or logits.
    """
    sides = ((term.source_shape, term.source_layout), (term.learner_shape, term.learner_layout))
    shapes: list[Any] = [
        layout.map_shape(cast(Shape, shape)) if isinstance(layout, Layout) else shape
        for shape, layout in sides
    ]
    return shapes[0], shapes[1]


def needs_maps(term: TransferTerm) -> bool:
    """Return whether outputs of a term could be rearranged as maps, and are not."""
    layouts = [*_each(term.source_layout), *_each(term.learner_layout)]
    return not isinstance(term.projector, MapProjector) and any(
        layout is not None and layout.kind != MAP for layout in layouts
    )


def _mixes_up_layouts(term: TransferTerm) -> bool:
    """Return whether a loss gets channels-last maps whose axes it would misunderstand.

    The element-wise default loss ignores which axis has the channels if both sides agree.
    """
    layouts = [*_each(term.source_layout), *_each(term.learner_layout)]
    kinds = {layout.kind for layout in layouts if layout is not None}
    mixed = len(kinds) > 1 or not isinstance(term.loss, FeatureMSELoss)
    return CHANNELS_LAST in kinds and mixed and needs_maps(term)


def _each(layouts: Any) -> Iterable[Any]:
    return layouts if isinstance(layouts, list) else [layouts]


def _projects_channels(term: TransferTerm) -> bool:
    features = term.transfer.knowledge == FEATURES
    return features and getattr(term.loss, 'projects_channels', False)


def _differ_in_logits(term: TransferTerm) -> bool:
    return term.transfer.knowledge != FEATURES and term.source_shape[1] != term.learner_shape[1]
