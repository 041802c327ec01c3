"""Tests and intervals of means and differences, from their variation over seeds and over cases.

Let V[m, s] be the measure of run m with seed s on all G groups of test cases. A difference of two
runs over S seeds has two sources of error. The seeds contribute A / S, where A is the larger of
the variance of the difference over its own seeds and of the variance pooled over all runs of the
suite, twice the mean square of the run x seed residuals of V. With three seeds, the former alone
has two degrees of freedom, and a pair whose seeds happen to agree would seem certain. The cases
contribute the covariance of the differences of two seeds, which a jackknife over groups estimates,
as in the analysis of variance of Obuchowski and Rockette (Communications in Statistics 24, 1995),
where readers take the place of seeds. The sum has Satterthwaite's degrees of freedom.

With fewer than :data:`FEWEST_RUNS` runs to pool, a test is the more conservative of two without
pooling: of Obuchowski and Rockette, and the paired t-test over seeds.

All functions are vectorized: leading dimensions, such as simulated data sets, are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmkdml.optional import require

special = require('scipy.special', extra='experiments', purpose='confidence intervals')

#: Smallest number of runs whose seed variance is pooled.
FEWEST_RUNS = 5
_ZERO = 1e-9  # of values in percent, to recognize ties despite rounding errors


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class SeedVariance:
    """Variance of one seed's difference, pooled over the runs of a suite.

    Attributes:
        variance: In points squared, (...).
        df: Its degrees of freedom.
        runs: Number of pooled runs.
    """

    variance: np.ndarray
    df: int
    runs: int

    def __add__(self, other: SeedVariance) -> SeedVariance:
        """Return the variance of a difference of two members; degrees of freedom are the fewer."""
        return SeedVariance(
            self.variance + other.variance, min(self.df, other.df), min(self.runs, other.runs)
        )


@dataclass(frozen=True, eq=False)
class Variance:
    """Variance of a mean over seeds.

    Attributes:
        seeds: Part of the seeds, in points squared, (...).
        seeds_df: Its degrees of freedom.
        cases: Part of the cases, (...), at least 0.
        cases_df: Its degrees of freedom.
    """

    seeds: np.ndarray
    seeds_df: int
    cases: np.ndarray
    cases_df: int

    def __getitem__(self, index: int) -> Variance:
        return Variance(self.seeds[index], self.seeds_df, self.cases[index], self.cases_df)

    @property
    def total(self) -> np.ndarray:
        """Variance of the mean, (...)."""
        return self.seeds + self.cases

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom by Satterthwaite's formula, (...); 1 if the variance is 0."""
        parts = self.seeds**2 / self.seeds_df + self.cases**2 / self.cases_df
        return np.where(parts > 0, self.total**2 / np.where(parts > 0, parts, 1), 1.0)


@dataclass(frozen=True, eq=False)
class Tested:
    """A mean or difference with its variance.

    Attributes:
        value: Mean over seeds, (...).
        variances: One variance, or several of which the most conservative one counts.
    """

    value: np.ndarray
    variances: tuple[Variance, ...]

    def __getitem__(self, index: int) -> Tested:
        return Tested(self.value[index], tuple(one[index] for one in self.variances))

    @property
    def varies(self) -> np.ndarray:
        """True if there is a variance to test with, (...)."""
        return np.all([one.total > _ZERO**2 for one in self.variances], axis=0)

    @property
    def p(self) -> np.ndarray:
        """Two-sided p-value for a value of 0, (...).

        Without variation it is 1 for a value of 0, and NaN otherwise.
        """
        errors = [np.sqrt(np.where(self.varies, one.total, 1)) for one in self.variances]
        p = np.max(
            [
                2 * special.stdtr(one.df, -np.abs(self.value) / error)
                for one, error in zip(self.variances, errors, strict=True)
            ],
            axis=0,
        )
        tied = np.where(np.abs(self.value) < _ZERO, 1.0, np.nan)
        return np.where(self.varies, p, tied)

    def half_width(self, confidence: float) -> np.ndarray:
        """Compute half of the width of the interval, (...), with a confidence level in (0, 1)."""
        return np.max(
            [
                -special.stdtrit(one.df, (1 - confidence) / 2) * np.sqrt(one.total)
                for one in self.variances
            ],
            axis=0,
        )

    def percent_interval(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Compute the interval of a value in [0, 100] on the logit scale, low and high, (...).

        Near 0 and 100 percent it is asymmetric and stays between them. It is NaN at 0 and 100.
        """
        inside = (self.value > _ZERO) & (self.value < 100 - _ZERO)
        value = np.where(inside, self.value, np.nan)
        logit = np.log(value / (100 - value))
        width = 100 * self.half_width(confidence) / (value * (100 - value))
        low, high = (100 / (1 + np.exp(-(logit + sign * width))) for sign in (-1, 1))
        return low, high


@dataclass(frozen=True, eq=False)
class Comparison:
    """A run compared with one or several competitors, of which each has to be exceeded.

    A run is better than all K competitors if it is better than each at the level alpha
    (intersection-union test), and not better than all if it is worse than one at alpha / K. The
    competitor with the highest mean is not chosen: a maximum of noisy means is biased upwards.

    Attributes:
        tests: Difference from each of the K competitors.
    """

    tests: Sequence[Tested]

    def __getitem__(self, index: int) -> Comparison:
        return Comparison([one[index] for one in self.tests])

    @property
    def value(self) -> np.ndarray:
        """Smallest difference, (...)."""
        return np.min([one.value for one in self.tests], axis=0)

    @property
    def p(self) -> np.ndarray:
        """Two-sided p-value, (...), of the direction of :attr:`value`; at most 1."""
        values, p = (
            np.stack([getattr(one, name) for one in self.tests]) for name in ('value', 'p')
        )
        worse = np.where(values < 0, len(self.tests) * p, 1).min(0)
        return np.where(self.value > 0, p.max(0), np.minimum(worse, 1))

    def interval(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Compute the interval of the smallest difference, low and high, (...).

        It excludes 0 if and only if :attr:`p` is below 1 - confidence.
        """
        level = 1 - (1 - confidence) / len(self.tests)
        low = np.min([one.value - one.half_width(confidence) for one in self.tests], axis=0)
        high = np.min([one.value + one.half_width(level) for one in self.tests], axis=0)
        return low, high


def correct_p_values(p: np.ndarray) -> np.ndarray:
    """Correct the p-values of M tests, (M,), by Holm's method."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    return np.minimum(corrected, 1)


def pool_seeds(values: np.ndarray, shared: bool = False) -> SeedVariance:
    """Pool the variance of one seed's value over runs.

    Args:
        values: V of M runs and S seeds in percent, (..., M, S).
        shared: Include what all runs of a seed have in common, which cancels in differences.

    Returns:
        Mean square of the run x seed residuals, with (M - 1)(S - 1) degrees of freedom; a
        difference of two runs has twice this variance. If ``shared``, the mean over runs of their
        variance, with as many degrees of freedom, because the runs are then not independent.

    Raises:
        ValueError: If there are fewer than two runs or seeds.
    """
    runs, seeds = values.shape[-2:]
    if min(runs, seeds) < 2:
        raise ValueError(f'Invalid values: expected at least 2 runs and 2 seeds, got {runs, seeds}')
    df = (runs - 1) * (seeds - 1)
    if shared:
        return SeedVariance(values.var(-1, ddof=1).mean(-1), df, runs)
    residuals = values - values.mean(-1, keepdims=True)
    residuals = residuals - residuals.mean(-2, keepdims=True)
    return SeedVariance((residuals**2).sum((-2, -1)) / df, df, runs)


def case_variance(replicates: np.ndarray) -> np.ndarray:
    """Compute the part of the cases in the variance of a mean over seeds, by the jackknife.

    Args:
        replicates: Value of each seed without each group of cases, (..., G, S).

    Returns:
        Mean covariance of two seeds, (...), at least 0; the variance if there is one seed.

    Raises:
        ValueError: If there are fewer than two groups.
    """
    groups, seeds = replicates.shape[-2:]
    if groups < 2:
        raise ValueError(f'Invalid replicates: expected at least 2 groups, got {groups}')
    centered = replicates - replicates.mean(-2, keepdims=True)
    factor = (groups - 1) / groups
    trace = factor * (centered**2).sum((-2, -1))
    if seeds == 1:
        return trace
    total = factor * (centered.sum(-1) ** 2).sum(-1)
    return np.maximum(total - trace, 0) / (seeds * (seeds - 1))


def over_seeds(
    values: np.ndarray, replicates: np.ndarray | None, pooled: SeedVariance | None
) -> Tested:
    """Test a mean or a difference over seeds.

    Args:
        values: Value of each seed, (..., S).
        replicates: Value of each seed without each group of cases, (..., G, S); None if there is
            only one group, whose variation is then not contained.
        pooled: Variance of one seed's value, pooled over the runs of a suite; None if unknown.

    Raises:
        ValueError: If there is only one seed and one group.
    """
    seeds = values.shape[-1]
    value = values.mean(-1)
    zero = np.zeros_like(value)
    if replicates is None and seeds == 1:
        raise ValueError('Invalid values: expected at least 2 seeds or 2 groups, got one of each')
    cases, cases_df = zero, 1
    if replicates is not None:
        cases, cases_df = case_variance(replicates), replicates.shape[-2] - 1
    if seeds == 1:
        return Tested(value, (Variance(zero, 1, cases, cases_df),))
    own = values.var(-1, ddof=1)
    if pooled is not None and pooled.runs >= FEWEST_RUNS:
        part = np.maximum(own, pooled.variance) / seeds
        return Tested(value, (Variance(part, pooled.df, cases, cases_df),))
    both = Variance(own / seeds, seeds - 1, cases, cases_df)
    return Tested(value, (both, Variance(own / seeds, seeds - 1, zero, 1)))
