"""Estimates of means and differences: intervals and p-values, and bootstrap distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from mmkdml.metric_info import PERCENT
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.counts import Counts, Entry, groups_of, resampler
from mmkdml.statistics.differences import (
    FEWEST_RUNS,
    Comparison,
    SeedVariance,
    Tested,
    over_seeds,
    pool_seeds,
)
from mmkdml.statistics.distributions import bootstrap
from mmkdml.statistics.estimates import Contrast, Estimate
from mmkdml.statistics.measures import Measure

__all__ = ['RESAMPLES', 'Contrast', 'Estimate', 'estimate', 'shared_seeds']

#: Number of bootstrap values for a figure.
RESAMPLES = 9999
_POOLS = {ENSEMBLE: ENSEMBLE, PLAIN: ENSEMBLE, TEACHER: TEACHER}  # all others are students
_Pair = tuple[Entry, Entry | None]
_Pool = tuple[tuple[str, ...], tuple[int, ...], frozenset, bool]


def estimate(
    counts: Counts,
    measure: str,
    contrasts: Sequence[Contrast],
    confidence: float = 0.95,
    resamples: int = 0,
    rng: int = 0,
) -> list[Estimate]:
    """Estimate means and differences, paired by seed and by case.

    See :mod:`mmkdml.statistics.differences` for the method. Groups of cases are left out by the
    jackknife, not images, because the images of a patient or lesion are not independent. With
    cross-validation the cases of all folds of a seed belong to one test split.

    The seed variance is pooled over all runs that were tested on the same cases with the shared
    seeds, separately for ensembles and single networks, teachers, and students; for two members of
    one run, that of their difference in all runs. Of equal runs, e.g. a frozen teacher that several
    runs share, one is used. With one seed the interval contains the
    variation over cases only, and the difference is not tested.

    Args:
        counts: Counts of a suite, see :func:`~mmkdml.statistics.counts.count_cases`.
        measure: Name of one of :data:`~mmkdml.statistics.measures.MEASURES`.
        contrasts: Means and differences to estimate. Their results do not affect each other.
        confidence: Confidence level, in (0, 1).
        resamples: Number of bootstrap values for figures, e.g. :data:`RESAMPLES`. They do not
            affect intervals and p-values. A difference from several competitors is that from the
            best one on the original cases.
        rng: Random seed of the bootstrap.

    Returns:
        One estimate for each contrast. The interval is undefined if a run is missing, no seed is
        shared, the cases differ, there is only one seed and one group, a mean is 0 or 100 percent,
        or the measure is undefined, also without one of the groups.

    Raises:
        ValueError: If the measure is unknown or belongs to another task, or if ``confidence`` or
            ``resamples`` is out of range.
    """
    checked_measure = counts.check_measure(measure)
    if not 0 < confidence < 1 or resamples < 0:
        raise ValueError(
            'Invalid estimate: expected confidence in (0, 1) and resamples >= 0, got '
            f'confidence={confidence} and resamples={resamples}'
        )
    key = measure, confidence, resamples, rng
    if key not in counts.estimators:
        counts.estimators[key] = _Estimator(counts, checked_measure, confidence, resamples, rng)
    estimator = counts.estimators[key]
    return [estimator.estimate(contrast) for contrast in contrasts]


def shared_seeds(counts: Counts, entries: Sequence[Entry]) -> tuple[tuple[int, ...], str]:
    """Return the seeds that all entries have, and why entries are not comparable, if so."""
    for name, member in entries:
        if (name, member) not in counts.by_entry:
            return (), f'no finished run of {name} has a member {member}'
    seeds = {entry: set(counts.by_entry[entry]) for entry in entries}
    shared = tuple(sorted(set.intersection(*seeds.values())))
    if not shared:
        each = ', '.join(f'{name} has {sorted(seeds[name, member])}' for name, member in entries)
        return (), f'no seed is shared: {each}'
    first = counts.by_entry[entries[0]][shared[0]].cases
    for name, member in entries:
        for seed in shared:
            cases = counts.by_entry[name, member][seed].cases
            if cases is not first and (differing := len(cases ^ first)):
                return shared, (
                    f'{entries[0][0]} (seed {shared[0]}) and {name} (seed {seed}) were tested on '
                    f'different cases: {differing} are in only one of them'
                )
    return shared, ''


class _Estimator:
    """Estimates of one measure. Values without each group are computed once per run and seed."""

    def __init__(
        self, counts: Counts, measure: Measure, confidence: float, resamples: int, rng: int
    ) -> None:
        self.counts, self.measure, self.confidence = counts, measure, confidence
        self.resamples, self.rng = resamples, rng
        self.scores = counts.scores(measure.name)
        # Positive differences are better.
        self.sign = -1 if measure.info.higher_is_better is False else 1
        self._replicates: dict[tuple[Entry, int], np.ndarray] = {}
        self._pools: dict[_Pool, SeedVariance | None] = {}

    def estimate(self, contrast: Contrast) -> Estimate:
        """Estimate one contrast."""
        seeds, reason = shared_seeds(self.counts, (contrast.entry, *contrast.competitors))
        if reason:
            return Estimate(seeds=seeds, undefined_reason=reason)
        cases = self.counts.by_entry[contrast.entry][seeds[0]].cases
        sizes = {'seeds': len(seeds), 'groups': len(groups_of(cases))}
        found = Estimate(
            seeds=seeds,
            groups=sizes['groups'],
            cases=len(cases),
            resampled=tuple(name for name, size in sizes.items() if size > 1),
        )
        pairs: list[_Pair] = [(contrast.entry, one) for one in contrast.competitors or (None,)]
        values = np.array([self._contrasted(pair, self._values, seeds) for pair in pairs])  # (K, S)
        worst = int(values.mean(1).argmin())
        found = replace(found, value=float(values[worst].mean()))
        name = self.measure.name
        if not np.isfinite(values).all():
            return replace(found, undefined_reason=f'{name} is undefined for a seed')
        if not found.resampled:
            return replace(found, undefined_reason='only one seed and one group of cases')
        replicates: Sequence[np.ndarray | None] = [None] * len(pairs)
        if found.groups > 1:
            left_out = [self._contrasted(pair, self._left_out, seeds) for pair in pairs]
            if undefined := np.isnan(left_out).any((0, 2)).sum():
                reason = f'{name} is undefined without {undefined} of {found.groups} groups'
                return replace(found, undefined_reason=reason)
            replicates = left_out
        pools = [self._pooled(pair, seeds, cases) for pair in pairs]
        pool = pools[worst]
        tests = list(map(over_seeds, values, replicates, pools))
        variance = tests[worst].variances[0]
        pooled = len(tests[worst].variances) == 1 and len(seeds) > 1
        found = replace(
            found,
            distribution=self._distribution(pairs[worst], seeds, found.groups),
            df=float(variance.df),
            seed_variance=float(variance.seeds) * len(seeds) if len(seeds) > 1 else float('nan'),
            case_variance=float(variance.cases) if found.groups > 1 else float('nan'),
            runs=pool.runs if pooled and pool else 0,
        )
        if contrast.competitors:
            runs = min(one.runs if one else 1 for one in pools)
            return self._difference(found, Comparison(tests), runs)
        return self._mean(found, tests[0])

    def _difference(self, found: Estimate, comparison: Comparison, runs: int) -> Estimate:
        """Add interval and p-value of a difference, or the reason why it is not tested."""
        p = float(comparison.p)
        reason = found.not_repeated
        if not reason and len(found.seeds) == 2 and runs < FEWEST_RUNS:
            reason = f'2 seeds of {runs} run{"s" * (runs != 1)}'
        if not reason and np.isnan(p):
            reason = 'no variation'
        low, high = map(float, comparison.interval(self.confidence))
        p = float('nan') if reason else p
        return replace(
            found, low=low, high=high, p=p, undecided_reason=reason, comparison=comparison
        )

    def _mean(self, found: Estimate, test: Tested) -> Estimate:
        """Add the interval of a mean, on the logit scale for percentages."""
        if self.measure.info.unit == PERCENT and 0 <= test.value <= 100:
            low, high = map(float, test.percent_interval(self.confidence))
            if np.isnan(low):
                reason = f'{self.measure.name} is {test.value:.0f} % for all seeds and groups'
                return replace(found, undefined_reason=reason)
            return replace(found, low=low, high=high)
        width = float(test.half_width(self.confidence))
        return replace(found, low=found.value - width, high=found.value + width)

    def _contrasted(
        self,
        pair: _Pair,
        values: Callable[[Entry, tuple[int, ...]], np.ndarray],
        seeds: tuple[int, ...],
    ) -> np.ndarray:
        entry, other = pair
        own = values(entry, seeds)
        return own if other is None else self.sign * (own - values(other, seeds))

    def _values(self, entry: Entry, seeds: tuple[int, ...]) -> np.ndarray:
        """Return the value of each seed, (S,)."""
        return np.array([self.scores[entry][seed] for seed in seeds])

    def _left_out(self, entry: Entry, seeds: tuple[int, ...]) -> np.ndarray:
        """Return the value of each seed without each group, (G, S)."""
        for seed in seeds:
            if (entry, seed) not in self._replicates:
                own = self.counts.by_entry[entry][seed].for_measure(self.measure)
                self._replicates[entry, seed] = self.measure.value(own.leave_one_out())
        return np.stack([self._replicates[entry, seed] for seed in seeds], 1)

    def _pooled(self, pair: _Pair, seeds: tuple[int, ...], cases: frozenset) -> SeedVariance | None:
        """Pool the seed variance of a mean or difference over the runs of the suite."""
        entry, other = pair
        if other is not None and entry[0] == other[0]:
            # Members of one run vary together, so their difference is pooled.
            return self._pool((entry[1], other[1]), seeds, cases, True)
        total = None
        for _, member in filter(None, pair):
            kind = (_POOLS.get(member, 'student'),)
            if (pool := self._pool(kind, seeds, cases, other is None)) is None:
                return None
            total = pool if total is None else total + pool
        return total

    def _pool(
        self, of: tuple[str, ...], seeds: tuple[int, ...], cases: frozenset, shared: bool
    ) -> SeedVariance | None:
        """Pool the seed variance of a kind of members, or of the difference of two members.

        None if there are fewer than two runs with the cases and seeds.
        """
        key = of, seeds, cases, shared
        if key not in self._pools:
            rows = {}
            for entries in self._comparable(of, seeds, cases):
                values = [self._values(entry, seeds) for entry in entries]
                row = values[0] - values[1] if len(of) == 2 else values[0]
                if np.isfinite(row).all():
                    digests = tuple(
                        self.counts.by_entry[entry][seed].digest
                        for entry in entries
                        for seed in seeds
                    )
                    rows[tuple(row), digests] = entries[0][0]
            runs = len(set(rows.values()))
            self._pools[key] = None
            if min(runs, len(seeds)) > 1:
                pooled = pool_seeds(np.array([row for row, _ in rows]), shared)
                # Members of one run are not independent.
                df = (runs - 1) * (len(seeds) - 1)
                self._pools[key] = replace(pooled, df=df, runs=runs)
        return self._pools[key]

    def _comparable(
        self, of: tuple[str, ...], seeds: tuple[int, ...], cases: frozenset
    ) -> Iterator[tuple[Entry, ...]]:
        """Yield entries of a kind, or pairs of two members of a run, tested on the same cases."""
        by_entry = self.counts.by_entry
        for run, member in by_entry:
            entries: tuple[Entry, ...] = ((run, member),)
            if len(of) == 2:
                entries = (run, of[0]), (run, of[1])
            wanted = member == of[0] if len(of) == 2 else _POOLS.get(member, 'student') == of[0]
            if wanted and all(
                entry in by_entry
                and seed in by_entry[entry]
                and (by_entry[entry][seed].cases is cases or by_entry[entry][seed].cases == cases)
                for entry in entries
                for seed in seeds
            ):
                yield entries

    def _distribution(self, pair: _Pair, seeds: tuple[int, ...], groups: int) -> np.ndarray:
        """Draw the bootstrap values of a mean or difference, (n,)."""
        if not self.resamples:
            return np.empty(0)
        entries = [entry for entry in pair if entry]
        signs = [1] if pair[1] is None else [self.sign, -self.sign]
        samples = [
            self.counts.by_entry[entry][seed].for_measure(self.measure)
            for entry in entries
            for seed in seeds
        ]
        return bootstrap(
            self.measure, resampler(samples), signs, len(seeds), groups, self.resamples, self.rng
        )  # fmt: skip
