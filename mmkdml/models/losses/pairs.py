"""Sides of a transfer with one tap or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

T = TypeVar('T', Tensor, int)

Taps = Tensor | Sequence[Tensor]
Channels = int | Sequence[int]


def listed(side: T | Sequence[T]) -> list[T]:
    """What a side has, as a list, be it one or several."""
    return list(side) if isinstance(side, Sequence) else [side]


def paired(learner: T | Sequence[T], source: T | Sequence[T]) -> list[tuple[T, T]]:
    """The learner's first with the source's first, and so on.

    Raises:
        ValueError: If the sides do not have equally many, or nothing.
    """
    sides = listed(learner), listed(source)
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise ValueError(
            'Taps are compared pair by pair, so both sides must have the same number, at least '
            f'one; got {len(sides[0])} of the learner and {len(sides[1])} of the source'
        )
    return list(zip(*sides, strict=True))


def check_count(side: Sequence, expected: int, whose: str) -> None:
    """Raises ``ValueError`` unless there are as many taps as there were channels."""
    if len(side) != expected:
        raise ValueError(
            f'Expected {expected} taps of the {whose}, one for each of its channels that the '
            f'loss was built with; got {len(side)}'
        )
