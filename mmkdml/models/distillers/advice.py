"""Shapes that a transfer cannot compare, and settings with which it can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmkdml.models.distillers.transfer_terms import Outputs, Shape, TransferTerm
from mmkdml.models.transfers import FEATURES, Transfer

#: Arguments of a transfer to change.
Change = dict[str, Any]
#: From transfers and their changes to a sentence that says what to set.
Advise = Callable[[Sequence[tuple[Transfer, Change]]], str]
#: Builds a changed transfer; raises ``ValueError`` if it does not fit.
Attempt = Callable[[Transfer], None]
#: Name and shape of all modules of a member that can be tapped, the last one first.
TappableModules = Callable[[str], Iterable[tuple[str, Shape]]]


class ShapeMismatchError(ValueError):
    """The two sides of a transfer have shapes that its loss cannot compare.

    Args:
        term: The transfer with its loss and projector.
        source: The source's side, after the projector.
        learner: The learner's side, after the projector.
    """

    def __init__(self, term: TransferTerm, source: Outputs, learner: Outputs) -> None:
        self.term = term
        sides = ' and '.join(
            f'{name} gives {shapes_of(shown)}'
            + (f' at the tap {tap!r}' if tap else '')
            + (f' ({before} before its projector)' if before != shapes_of(shown) else '')
            for name, shown, tap, before in (
                (term.transfer.source, source, term.source_tap, term.source_shape),
                (term.transfer.learner, learner, term.learner_tap, term.learner_shape),
            )
        )
        super().__init__(f'Invalid transfer {term.transfer}: {sides}')


def shapes_of(shown: Outputs) -> Any:
    """The shape of one tensor, or the list of several."""
    return [tuple(t.shape) for t in shown] if isinstance(shown, list) else tuple(shown.shape)


def check_shapes(term: TransferTerm, source: Outputs, learner: Outputs) -> None:
    """Raise an error for two sides of different shapes, unless the loss supports them.

    Raises:
        ShapeMismatchError: If they differ.
        ValueError: If the loss compares one tap of each side, but there are several.
    """
    if not getattr(term.loss, 'requires_same_shape', True):
        return
    if isinstance(source, list) or isinstance(learner, list):
        raise ValueError(
            f'Invalid transfer {term.transfer}: {type(term.loss).__name__} compares one tap of '
            'each side. Make it one transfer for each pair of taps'
        )
    ends = [tuple(side.shape) for side in (source, learner)]
    if _projects_channels(term):
        ends = [(*shape[:1], *shape[2:]) for shape in ends]
    if ends[0] != ends[1]:
        raise ShapeMismatchError(term, source, learner)


def with_advice(
    mismatches: Sequence[ShapeMismatchError],
    attempt: Attempt,
    outputs: TappableModules,
    advise: Advise,
) -> str:
    """The messages of all mismatches, and the changes with which each transfer was built.

    Args:
        mismatches: At least one.
        attempt: Builds a changed transfer.
        outputs: Modules of a member that can be tapped.
        advise: From changes to a sentence.
    """
    sentences = [str(error) for error in mismatches]
    fixes = []
    for error in mismatches:
        if _differ_in_logits(error.term):
            sentences.append(
                'Give the heads of both members the same number of logits (num_classes; for a '
                'segmentor out_channels, too)'
            )
        change = _fix(error, attempt, outputs)
        if change is not None:
            fixes.append((error.term.transfer, change))
        elif not _differ_in_logits(error.term):
            sentences.append(
                'Choose taps that give the same kind of tensor; tools/list_taps.py lists them with '
                'their shapes'
            )
    return '. '.join([*dict.fromkeys(sentences), *([advise(fixes)] if fixes else [])])


def transfer_advice(fixes: Sequence[tuple[Transfer, Change]]) -> str:
    """Return advice for the rows of a plan."""
    return '. '.join(
        f'Set {", ".join(f"{key}={as_code(value)}" for key, value in change.items())} in the '
        f'transfer {transfer.source} -> {transfer.learner} ({transfer.knowledge})'
        for transfer, change in fixes
    )


def as_code(value: Any) -> str:
    """Return a value as it is written in a config."""
    if isinstance(value, Mapping) and all(str(key).isidentifier() for key in value):
        return f'dict({", ".join(f"{key}={as_code(one)}" for key, one in value.items())})'
    if isinstance(value, Mapping):
        return f'{{{", ".join(f"{key!r}: {as_code(one)}" for key, one in value.items())}}}'
    return value.__name__ if isinstance(value, type) else repr(value)


def _fix(error: ShapeMismatchError, attempt: Attempt, outputs: TappableModules) -> Change | None:
    """The first change with which the transfer can be built."""
    term = error.term
    if _differ_in_logits(term):
        change = _projector_change(term)
        return change if len(term.source_shape) == 4 and change['projector'] else None
    for change in _changes(term, outputs):
        changed = dataclasses.replace(term.transfer, **change)
        try:
            attempt(changed)
        except ShapeMismatchError as again:  # at the new tap; a projector may do the rest
            if 'projector' in change or len({*map(len, _ends(again.term))}) > 1:
                continue
            more = _projector_change(again.term)
            try:
                attempt(dataclasses.replace(changed, **more))
            except ValueError:
                continue
            return {**change, **more}
        except ValueError:
            continue
        return change
    return None


def _changes(term: TransferTerm, outputs: TappableModules) -> Iterator[Change]:
    source, learner = _ends(term)
    if len(source) == len(learner):
        yield _projector_change(term)
        return
    # Maps rather than vectors: they know where something is.
    sides = [('source', learner), ('learner', source)]
    for side, other in sorted(sides, key=lambda row: -len(row[1])):
        found = list(outputs(getattr(term.transfer, side)))
        alike = [name for name, shape in found if shape == other]
        kind = [name for name, shape in found if len(shape) == len(other)]
        for name in dict.fromkeys([*alike, *kind[:1]]):
            yield {f'{side}_tap': name}


def _projector_change(term: TransferTerm) -> Change:
    """The projector for two shapes of as many dimensions."""
    source, learner = _ends(term)
    resize = source[2:] != learner[2:]
    channels = source[1] != learner[1] and not _projects_channels(term)
    predictions = term.transfer.knowledge != FEATURES  # of which the classes are not projected
    projector: dict[str, Any] | None = None
    if resize and (predictions or not channels):
        projector = dict(type='mmkdml.InterpolateProjector')
    elif channels and not predictions:
        kind = 'Conv' if len(source) == 4 else 'Linear'
        projector = dict(type=f'mmkdml.{kind}Projector', **(dict(resize=True) if resize else {}))
    return dict(projector=projector)


def _ends(term: TransferTerm) -> tuple[Any, Any]:
    """Both shapes before the projector."""
    return term.source_shape, term.learner_shape


def _projects_channels(term: TransferTerm) -> bool:
    features = term.transfer.knowledge == FEATURES
    return features and getattr(term.loss, 'projects_channels', False)


def _differ_in_logits(term: TransferTerm) -> bool:
    source, learner = _ends(term)
    return term.transfer.knowledge != FEATURES and source[1] != learner[1]
