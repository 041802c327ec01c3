"""What a search for weights may try: alpha + beta + gamma = 1 for each student.

The sum and the separate weights of both students are the paper's (section 3.2; a habit of its grid
search, not a rule). It prints no grid. Every one of its rows has alpha in {0.1, 0.2, 0.4}, and
shares the rest equally where two transfers are weighed: (0.2, 0.8), (0.2, 0.4, 0.4). The coarsest
regular grid with all of them is alpha = 0.1, 0.2, ... 0.9 and equal shares, :func:`paper_grid`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from optuna import Trial

from mmkdml.models.transfers import (
    PREDICTIONS,
    STUDENTS,
    checked_weights,
    letters_of,
    transfers_for,
)

LEARNING_RATE = 'optim_wrapper.optimizer.lr'
TEMPERATURE = 'model.temperature'
_DIGITS = 4
_FINEST = 0.01
_MOST_TRIALS = 1_000_000
Point = tuple[float, ...]


@dataclass(frozen=True)
class SearchSpace:
    """The weights of a mode, and what else is searched.

    Attributes:
        letters: The weights that the mode uses, alpha first.
        grid: The points to try for each student, or None to try the whole simplex.
        tied: Whether both students have the same weights.
        lr: Lowest and highest learning rate, None to leave the config's; on a log scale.
        temperature: The same for the temperature of the predictions, on a linear scale.

    Raises:
        ValueError: If a range is empty or not positive, or goes with a grid, or if the grid has
            more trials than memory has room for.
    """

    letters: tuple[str, ...]
    grid: tuple[Point, ...] | None = None
    tied: bool = False
    lr: tuple[float, float] | None = None
    temperature: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, ends in (('learning rate', self.lr), ('temperature', self.temperature)):
            if ends is not None and not _is_range(ends):
                raise ValueError(
                    f'The range of the {name} must be two positive numbers, the lower one first; '
                    f'got {ends}'
                )
            if ends is not None and self.grid is not None:
                raise ValueError(
                    f'A grid is of weights alone; to search the {name}, use the sampler tpe'
                )

        if (size := self.size() or 0) > _MOST_TRIALS:
            raise ValueError(
                f'The grid has {size} trials, more than {_MOST_TRIALS}; take a larger step, or the '
                'same weights for both students'
            )

    def choices(self) -> dict[str, list[str]]:
        """The grid by Optuna's parameters, for its ``GridSampler``; empty without a grid."""
        return {name: [_text(point) for point in self.grid or ()] for name in self._names()}

    def size(self) -> int | None:
        """How many trials the grid has, None without one."""
        return None if self.grid is None else len(self.grid) ** len(self._names())

    def options(self, trial: Trial) -> dict[str, Any]:
        """What a trial is to try, as settings of a config by dotted key."""
        points = [self._point(trial, name) for name in self._names()]
        if self.tied:
            points *= len(STUDENTS)
        options: dict[str, Any] = {
            f'model.weights.{letter}': pair
            for letter, pair in zip(self.letters, zip(*points, strict=True), strict=True)
        }
        if self.lr is not None:
            lr = trial.suggest_float('lr', *self.lr, log=True)
            options[LEARNING_RATE] = float(f'{lr:.3g}')
        if self.temperature is not None:
            options[TEMPERATURE] = round(trial.suggest_float('temperature', *self.temperature), 2)
        return options

    def _names(self) -> tuple[str, ...]:
        return ('students',) if self.tied else STUDENTS

    def _point(self, trial: Trial, name: str) -> Point:
        if self.grid is not None:
            texts = [_text(point) for point in self.grid]
            return self.grid[texts.index(trial.suggest_categorical(name, texts))]
        letters = self.letters[:-1]
        return simplex_point(
            [trial.suggest_float(f'{name}.{letter}_quantile', 0, 1) for letter in letters]
        )


def temperature_matters(mode: str, style: str) -> bool:
    """Whether any student of a variant receives predictions, which alone have a temperature."""
    weights = dict.fromkeys(letters_of(mode), (1.0, 1.0))
    transfers = transfers_for(mode, style, checked_weights(mode, weights))
    return any(transfer.knowledge == PREDICTIONS for transfer in transfers)


def paper_grid(letters: Sequence[str]) -> tuple[Point, ...]:
    """Nine points: alpha = 0.1, 0.2, ... 0.9, the rest shared equally by the other weights."""
    others = len(letters) - 1
    return tuple(
        (tenths / 10, *[round((10 - tenths) / 10 / others, _DIGITS)] * others)
        for tenths in range(1, 10)
    )


def lattice(letters: Sequence[str], step: float) -> tuple[Point, ...]:
    """All points whose weights are positive multiples of a step and sum to 1.

    Args:
        letters: The weights, two or three.
        step: Such that 1 is a multiple of it; 0.05 has all the values that the paper prints. At
            least 0.01.

    Raises:
        ValueError: If 1 is no multiple of the step, too small a one for a single point or so large
            a one that there are more points than can be tried.
    """
    parts = round(1 / step) if _is_number(step) and step >= _FINEST else 0
    if parts < len(letters) or abs(parts * step - 1) > 1e-6:
        raise ValueError(
            f'The step of the grid must be 1 divided by a whole number, at least {_FINEST} and at '
            f'most 1/{len(letters)} for {", ".join(letters)}; got {step}'
        )
    return tuple(
        tuple((end - begin) / parts for begin, end in pairwise((0, *cuts, parts)))
        for cuts in combinations(range(1, parts), len(letters) - 1)
    )


def simplex_point(quantiles: Sequence[float]) -> Point:
    """Breaks a stick of length 1: k-1 numbers in [0, 1] to k weights >= 0 that sum to 1.

    The i-th number is the quantile of the i-th piece in what is left of the stick, Beta(1, k-i) for
    i = 1 ... k-1. Uniform numbers give points spread evenly over the simplex (Dirichlet with all
    parameters 1; Devroye, Non-Uniform Random Variate Generation, 1986, chapter XI.4), each point
    from one place only, so that a sampler that learns in the unit cube learns on the simplex.

    Returns:
        The weights, of four decimals.
    """
    weights, left = [], 1.0
    for index, quantile in enumerate(quantiles):
        piece = left * (1 - (1 - quantile) ** (1 / (len(quantiles) - index)))
        weights.append(round(piece, _DIGITS))
        left = round(left - weights[-1], _DIGITS)
    return (*weights, left)


def flat(options: Mapping[str, Any]) -> dict[str, float]:
    """``alpha_1, alpha_2, ...``, ``lr`` and ``temperature`` from what :class:`SearchSpace` gave."""
    values: dict[str, float] = {}
    for key, value in options.items():
        name = key.rpartition('.')[2]
        if isinstance(value, Sequence):
            values |= {f'{name}_{number}': weight for number, weight in enumerate(value, 1)}
        else:
            values[name] = value
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(ends: Any) -> bool:
    if not isinstance(ends, Sequence) or len(ends) != 2 or not all(map(_is_number, ends)):
        return False
    return 0 < ends[0] < ends[1] <= sys.float_info.max


def _text(point: Point) -> str:
    return ' '.join(f'{weight:g}' for weight in point)
