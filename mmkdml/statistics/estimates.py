"""Contrasts of members of a suite, and their estimates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmkdml.statistics.counts import Entry
from mmkdml.statistics.differences import Comparison


@dataclass(frozen=True)
class Contrast:
    """A member's mean over seeds, or its difference from each of several competitors.

    Attributes:
        entry: Run and member.
        competitors: Runs and members, each of which has to be exceeded; empty for the mean itself.
    """

    entry: Entry
    competitors: tuple[Entry, ...] = ()


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Estimate:
    """A mean, or a difference of means, over the seeds all entries share.

    Attributes:
        value: Mean in the unit of the measure. The smallest difference from a competitor, in
            points; positive if the entry is better, also if lower values of the measure are better.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p: Two-sided p-value for a difference of 0, see :class:`~.differences.Comparison`; NaN for
            a mean and for a difference that is not tested, see :attr:`undecided_reason`.
        distribution: Bootstrap values for a figure; empty if none were drawn.
        seeds: The shared seeds.
        groups: Number of groups of test cases (patients, lesions).
        cases: Number of test cases (images).
        resampled: Variation in the interval: ``'seeds'``, ``'groups'`` or both.
        undefined_reason: Reason why the interval, and possibly the value, is NaN; empty otherwise.
        undecided_reason: Reason why a difference is not tested; empty otherwise.
        df: Degrees of freedom.
        seed_variance: Variance of one seed, in points squared; the larger of its own and the
            pooled variance. NaN if there is one seed.
        case_variance: Part of the cases in the variance of the mean; NaN if there is one group.
        runs: Number of runs over which the seed variance was pooled; 0 if it was not pooled.
        comparison: The tests of a difference.
    """

    value: float = float('nan')
    low: float = float('nan')
    high: float = float('nan')
    p: float = float('nan')
    distribution: np.ndarray = field(default_factory=lambda: np.empty(0))
    seeds: tuple[int, ...] = ()
    groups: int = 0
    cases: int = 0
    resampled: tuple[str, ...] = ()
    undefined_reason: str = ''
    undecided_reason: str = ''
    df: float = float('nan')
    seed_variance: float = float('nan')
    case_variance: float = float('nan')
    runs: int = 0
    comparison: Comparison | None = field(default=None, repr=False)

    @property
    def counted(self) -> str:
        """Numbers of seeds, cases and groups, e.g. ``'3 seeds, 120 cases in 40 groups'``."""
        parts = (
            f'{number} {name}{"s" * (number != 1)}'
            for number, name in (
                (len(self.seeds), 'seed'), (self.cases, 'case'), (self.groups, 'group')
            )
        )  # fmt: skip
        return '{}, {} in {}'.format(*parts)

    @property
    def not_repeated(self) -> str:
        """Reason why a difference cannot be tested: a single seed or group, e.g. ``'1 seed'``."""
        numbers = {'seed': len(self.seeds), 'group': self.groups}
        return ' and '.join(f'1 {name}' for name, number in numbers.items() if number == 1)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Compute the interval of a difference with another confidence level; NaN for a mean."""
        if self.comparison is None:
            return float('nan'), float('nan')
        low, high = self.comparison.interval(confidence)
        return float(low), float(high)
