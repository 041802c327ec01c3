"""Helpers for losses on one or several taps per side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar('T', Tensor, int)

Taps = Tensor | Sequence[Tensor]
Channels = int | Sequence[int]


def as_list(side: T | Sequence[T]) -> list[T]:
    """Return one or several values as a new list."""
    return list(side) if isinstance(side, Sequence) else [side]


def paired(learner: T | Sequence[T], source: T | Sequence[T]) -> list[tuple[T, T]]:
    """Pair the learner's values with the source's in order.

    Raises:
        ValueError: If the numbers of values differ or are 0.
    """
    learners, sources = as_list(learner), as_list(source)
    if len(learners) != len(sources) or not learners:
        raise ValueError(
            'Invalid taps: expected the same number of both sides, at least one, because they are '
            f'compared in pairs; got {len(learners)} of the learner and {len(sources)} of the '
            'source'
        )
    return list(zip(learners, sources, strict=True))


def sum_over_pairs(
    loss: Callable[..., Tensor], learner: Taps, source: Taps, *options: Any
) -> Tensor:
    """Sum a loss over the pairs of taps; see :func:`paired` for what it raises."""
    return torch.stack([loss(*pair, *options) for pair in paired(learner, source)]).sum()


def check_count(taps: Sequence, expected: int, side: str) -> None:
    """Raise ``ValueError`` unless there is one tap for each entry of the side's channels."""
    if len(taps) != expected:
        raise ValueError(
            f'Invalid taps of the {side}: expected {expected}, one for each of its channels in the '
            f'constructor, got {len(taps)}'
        )
