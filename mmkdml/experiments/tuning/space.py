"""Search space of the loss weights: alpha + beta + gamma = 1 for each student.

The paper uses this sum and separate weights for both students (section 3.2), but does not specify
its grid. All published weights have alpha in {0.1, 0.2, 0.4} and divide the rest equally among the
other terms: (0.2, 0.8), (0.2, 0.4, 0.4). The coarsest regular grid that contains all of them is
alpha = 0.1, 0.2, ... 0.9 with equal shares, :func:`paper_grid`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from optuna.trial import BaseTrial

from mmkdml.models.transfers import checked_weights, transfers_for
from mmkdml.modes import PREDICTIONS, STUDENTS, letters_of

LEARNING_RATE = 'optim_wrapper.optimizer.lr'
TEMPERATURE = 'model.temperature'
_DIGITS = 4
_MIN_STEP = 0.01
_MAX_TRIALS = 1_000_000
Point = tuple[float, ...]


@dataclass(frozen=True)
class SearchSpace:
    """Loss weights of a mode and other searched settings.

    Attributes:
        letters: Names of the mode's weights, ``'alpha'`` first.
        grid: Weights to try for each student; None for the complete simplex.
        tied: Use the same weights for both students.
        lr: Lowest and highest learning rate, searched on a log scale; None to keep the config's.
        temperature: Lowest and highest temperature of the predictions, searched on a linear scale;
            None to keep the config's.

    Raises:
        ValueError: If a range is empty, not positive or combined with a grid, or if the grid has
            more than a million trials.
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
                    f'Invalid range of the {name}: expected two positive numbers in ascending '
                    f'order, got {ends}'
                )
            if ends is not None and self.grid is not None:
                raise ValueError(
                    f'Invalid range of the {name}: a grid has only weights. Use the sampler tpe'
                )

        if (size := self.size() or 0) > _MAX_TRIALS:
            raise ValueError(
                f'Invalid grid: expected at most {_MAX_TRIALS} trials, got {size}. Use a larger '
                'step, or the same weights for both students'
            )

    def choices(self) -> dict[str, list[str]]:
        """Return the search space of Optuna's ``GridSampler``."""
        return {name: [_text(point) for point in self.grid or ()] for name in self._names()}

    def size(self) -> int | None:
        """Return the number of trials of the grid; None without a grid."""
        return None if self.grid is None else len(self.grid) ** len(self._names())

    def options(self, trial: BaseTrial) -> dict[str, Any]:
        """Suggest the parameters of a trial, and return them as config settings by dotted key."""
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

    def _point(self, trial: BaseTrial, name: str) -> Point:
        if self.grid is not None:
            texts = [_text(point) for point in self.grid]
            return self.grid[texts.index(trial.suggest_categorical(name, texts))]
        letters = self.letters[:-1]
        return simplex_point(
            [trial.suggest_float(f'{name}.{letter}_quantile', 0, 1) for letter in letters]
        )


def temperature_matters(mode: str, style: str) -> bool:
    """Return whether a student of a mode and style learns from predictions."""
    weights = dict.fromkeys(letters_of(mode), (1.0, 1.0))
    transfers = transfers_for(mode, style, checked_weights(mode, weights))
    return any(transfer.knowledge == PREDICTIONS for transfer in transfers)


def paper_grid(letters: Sequence[str]) -> tuple[Point, ...]:
    """Return nine points: alpha = 0.1, 0.2, ... 0.9 and equal shares of the other weights."""
    others = len(letters) - 1
    return tuple(
        (tenths / 10, *[round((10 - tenths) / 10 / others, _DIGITS)] * others)
        for tenths in range(1, 10)
    )


def lattice(letters: Sequence[str], step: float) -> tuple[Point, ...]:
    """Return all points whose weights are positive multiples of a step and sum to 1.

    Args:
        letters: Names of two or three weights.
        step: 1 / n for an integer n, from 0.01 to 1 / ``len(letters)``. The published weights are
            multiples of 0.05.

    Raises:
        ValueError: If the step is invalid.
    """
    parts = round(1 / step) if _is_number(step) and step >= _MIN_STEP else 0
    if parts < len(letters) or abs(parts * step - 1) > 1e-6:
        raise ValueError(
            f'Invalid grid step: expected 1/n for an integer n, at least {_MIN_STEP} and at most '
            f'1/{len(letters)} for {", ".join(letters)}, got {step}'
        )
    return tuple(
        tuple((end - begin) / parts for begin, end in pairwise((0, *cuts, parts)))
        for cuts in combinations(range(1, parts), len(letters) - 1)
    )


def simplex_point(quantiles: Sequence[float]) -> Point:
    """Map k - 1 numbers in [0, 1] to k weights >= 0 that sum to 1, by stick breaking.

    The i-th number is a quantile of Beta(1, k - i), the distribution of the i-th weight relative to
    the remaining stick. Uniform numbers result in uniform weights on the simplex (Dirichlet with
    all parameters 1; Devroye, Non-Uniform Random Variate Generation, 1986, chapter XI.4). The map
    is one-to-one, so a sampler of the unit cube can learn which regions of the simplex are good.

    Returns:
        The weights, rounded to four decimals.
    """
    weights, rest = [], 1.0
    for index, quantile in enumerate(quantiles):
        weight = rest * (1 - (1 - quantile) ** (1 / (len(quantiles) - index)))
        weights.append(round(weight, _DIGITS))
        rest = round(rest - weights[-1], _DIGITS)
    return (*weights, rest)


def flat(options: Mapping[str, Any]) -> dict[str, float]:
    """Flatten searched settings to ``alpha_1, alpha_2, ...``, ``lr`` and ``temperature``."""
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
