"""Power of the tests of differences that a planned suite can detect."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from random import Random

import numpy as np

from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.optional import require
from mmkdml.statistics.bootstrap import Contrast, estimate, shared_seeds
from mmkdml.statistics.counts import Counts
from mmkdml.statistics.differences import FEWEST_RUNS, pool_seeds

stats = require('scipy.stats', extra='experiments', purpose='power of tests')
optimize = require('scipy.optimize', extra='experiments', purpose='power of tests')

_NODES = 200  # quantiles over which power is averaged
_MOST_PAIRS = 2000  # the mean over more pairs of runs changes by less than a percent


@dataclass(frozen=True)
class Variances:
    """Standard deviations of the two parts of a difference between runs.

    Attributes:
        seed_sd: Standard deviation of one run over seeds, in points.
        case_sd: Standard deviation of the contribution of one group to a difference, in points.
    """

    seed_sd: float
    case_sd: float

    @property
    def seeds(self) -> float:
        """Variance of one seed's difference."""
        return 2 * self.seed_sd**2

    @property
    def cases(self) -> float:
        """Variance of one group's difference."""
        return self.case_sd**2


@dataclass(frozen=True)
class Plan:
    """Size of a planned suite.

    Attributes:
        runs: Number of runs whose seed variance is pooled.
        seeds: Number of seeds.
        groups: Number of groups of test cases, over all folds.
        claims: Number of claims in the family.
    """

    runs: int
    seeds: int
    groups: int
    claims: int = 1


def power(difference: float, plan: Plan, variances: Variances, alpha: float = 0.05) -> float:
    """Compute the probability that a claim about a true difference holds.

    It is that of a noncentral t distribution, averaged over the floor of the seed variance, for the
    first step of Holm's correction, alpha / claims. Suites of fewer than
    :data:`~.differences.FEWEST_RUNS` runs have at most the power of the weaker of their two tests,
    which is returned.

    Args:
        difference: True difference in points, positive.
        plan: Size of the suite.
        variances: Expected variances.
        alpha: Level of the family, in (0, 1).

    Returns:
        Probability; 0 if the suite tests nothing: with one seed or group, or with two seeds of few
        runs.

    Raises:
        ValueError: If a size is below 1 or no variance is positive.
    """
    if min(plan.runs, plan.seeds, plan.groups, plan.claims) < 1:
        raise ValueError(f'Invalid plan: expected sizes of at least 1, got {plan}')
    if not (variances.seed_sd > 0 and variances.case_sd >= 0):
        raise ValueError(f'Invalid variances: expected a positive seed_sd, got {variances}')
    pooled = plan.runs >= FEWEST_RUNS
    if min(plan.seeds, plan.groups) == 1 or (plan.seeds == 2 and not pooled):
        return 0.0
    level = alpha / plan.claims / 2
    seeds, cases = variances.seeds / plan.seeds, variances.cases / plan.groups
    own_df = plan.seeds - 1
    quantiles = (np.arange(_NODES) + 0.5) / _NODES
    # The larger one of own and pooled variance, relative to the true one
    floor = np.maximum(stats.chi2.ppf(quantiles, own_df) / own_df, 1) if pooled else np.ones(1)
    seeds_df = (plan.runs - 1) * own_df if pooled else own_df
    estimated = seeds * floor + cases
    df = estimated**2 / ((seeds * floor) ** 2 / seeds_df + cases**2 / (plan.groups - 1))
    true = np.sqrt(seeds + cases)
    limit = stats.t.isf(level, df) * np.sqrt(estimated) / true
    found = float(stats.nct.sf(limit, df, difference / true).mean())
    if pooled:
        return found
    error = stats.norm.ppf(quantiles) * np.sqrt(cases)  # of the cases, which this test ignores
    shift = (difference + error) / np.sqrt(seeds)
    over_seeds = stats.nct.sf(stats.t.isf(level, own_df), own_df, shift).mean()
    return min(found, float(over_seeds))


def detectable(plan: Plan, variances: Variances, wanted: float = 0.8, alpha: float = 0.05) -> float:
    """Compute the smallest true difference that is detected with a wanted power.

    Args:
        plan: Size of the suite.
        variances: Expected variances.
        wanted: Power, in (alpha, 1).
        alpha: Level of the family.

    Returns:
        Difference in points; infinite if the suite tests nothing.

    Raises:
        ValueError: If ``wanted`` is out of range; see :func:`power`.
    """
    if not alpha < wanted < 1:
        raise ValueError(f'Invalid power: expected a value in ({alpha}, 1), got {wanted}')
    upper = np.sqrt(variances.seeds + variances.cases)
    if power(upper, plan, variances, alpha) == 0:
        return float('inf')
    while power(upper, plan, variances, alpha) < wanted:
        upper *= 2
    found = optimize.brentq(
        lambda x: power(x, plan, variances, alpha) - wanted, 0, upper, xtol=1e-3
    )
    return float(found)


def measured_variances(counts: Counts, measure: str) -> Variances:
    """Measure the variances of the ensembles and single networks of a suite.

    The case variance is a mean over pairs of runs; of large suites, over a random choice of pairs.

    Args:
        counts: Counts of the suite.
        measure: Name of the measure.

    Returns:
        Seed variance, pooled over runs, and mean case variance of their differences.

    Raises:
        ValueError: If fewer than two runs share two seeds and two groups of cases; see
            :func:`~.bootstrap.estimate`.
    """
    entries = [entry for entry in counts.by_entry if entry[1] in (ENSEMBLE, PLAIN)]
    seeds, reason = shared_seeds(counts, entries) if entries else ((), 'no run is finished')
    pairs = list(combinations(entries, 2))
    if len(pairs) > _MOST_PAIRS:
        pairs = Random(0).sample(pairs, _MOST_PAIRS)
    contrasts = [Contrast(one, (other,)) for one, other in pairs]
    found = [] if reason else estimate(counts, measure, contrasts)
    cases = [one.case_variance * one.groups for one in found if not one.undefined_reason]
    if len(seeds) < 2 or not cases or np.isnan(cases).any():
        raise ValueError(
            'Invalid results: expected at least two runs with two shared seeds and two groups of '
            f'the same cases, got {reason or f"{len(entries)} runs with seeds {list(seeds)}"}. '
            'State --seed-sd and --case-sd'
        )
    scores = counts.scores(measure)
    values = np.array([[scores[entry][seed] for seed in seeds] for entry in entries])
    return Variances(float(np.sqrt(pool_seeds(values).variance)), float(np.sqrt(np.mean(cases))))
