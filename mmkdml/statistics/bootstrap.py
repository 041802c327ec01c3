"""Estimates of means and differences: intervals and p-values, and bootstrap distributions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, cast

import numpy as np

from mmkdml.metric_info import PERCENT
from mmkdml.statistics.counts import Counts, Entry, groups_of, resampler
from mmkdml.statistics.differences import FEWEST_RUNS, Comparison, SeedVariance, Tested, over_seeds
from mmkdml.statistics.distributions import bootstrap
from mmkdml.statistics.estimates import Contrast, Estimate
from mmkdml.statistics.measures import Measure
from mmkdml.statistics.pools import Pair, SeedPools, shared_seeds

__all__ = ['RESAMPLES', 'Contrast', 'Estimate', 'estimate', 'shared_seeds']

#: Number of bootstrap values for a figure.
RESAMPLES = 9999
_CHUNK = 1 << 20  # numbers that are computed at once


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
    return estimator.estimate(contrasts)


def _pairs(contrast: Contrast) -> list[Pair]:
    return [(contrast.entry, other) for other in contrast.competitors or (None,)]


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
        self._pools = SeedPools(counts, self.scores)

    def estimate(self, contrasts: Sequence[Contrast]) -> list[Estimate]:
        """Estimate contrasts; those with equal seeds, cases and degrees of freedom at once."""
        found: list[Estimate] = []
        pools: dict[int, list[SeedVariance | None]] = {}
        batches: dict[Any, list[int]] = {}
        left_out: set[tuple[Entry, int]] = set()
        for place, contrast in enumerate(contrasts):
            entries = (contrast.entry, *contrast.competitors)
            seeds, reason = shared_seeds(self.counts, entries)
            if reason:
                found.append(Estimate(seeds=seeds, undefined_reason=reason))
                continue
            cases = self.counts.by_entry[contrast.entry][seeds[0]].cases
            groups = len(groups_of(cases))
            sizes = {'seeds': len(seeds), 'groups': groups}
            resampled = tuple(name for name, size in sizes.items() if size > 1)
            found.append(
                Estimate(seeds=seeds, groups=groups, cases=len(cases), resampled=resampled)
            )
            if groups > 1:
                left_out.update(product(entries, seeds))
            own = [self._pools.pooled(pair, seeds, cases) for pair in _pairs(contrast)]
            pools[place] = own
            df = tuple(one and (one.df, one.runs) for one in own)
            batches.setdefault((seeds, cases, bool(contrast.competitors), df), []).append(place)
        self._leave_out(left_out)
        for places in batches.values():
            one = found[places[0]]
            size = len(pools[places[0]]) * one.groups * len(one.seeds)
            step = max(1, _CHUNK // size)
            for chunk in (places[start : start + step] for start in range(0, len(places), step)):
                completed = self._complete(
                    [contrasts[place] for place in chunk],
                    [found[place] for place in chunk],
                    [pools[place] for place in chunk],
                )
                for place, one in zip(chunk, completed, strict=True):
                    found[place] = one
        return found

    def _complete(
        self,
        contrasts: Sequence[Contrast],
        found: Sequence[Estimate],
        pools: Sequence[Sequence[SeedVariance | None]],
    ) -> list[Estimate]:
        """Complete the estimates of B contrasts from K competitors, or of B means (K = 1)."""
        seeds, groups = found[0].seeds, found[0].groups
        pairs = list(map(_pairs, contrasts))
        values = self._contrasted(pairs, self._values, seeds)  # (B, K, S)
        left_out = self._contrasted(pairs, self._left_out, seeds) if groups > 1 else None
        found = self._with_values(found, values, left_out)
        rows = [row for row, one in enumerate(found) if not one.undefined_reason]
        if not rows:
            return found
        tests = []
        for place, pool in enumerate(pools[0]):
            if pool is not None:
                variances = [cast(SeedVariance, pools[row][place]).variance for row in rows]
                pool = replace(pool, variance=np.array(variances))
            replicates = None if left_out is None else left_out[rows, place]
            tests.append(over_seeds(values[rows, place], replicates, pool))
        worst = values.mean(-1).argmin(-1)
        all_df = [test.variances[0].df for test in tests]
        for index, row in enumerate(rows):
            place = worst[row]
            variance, pool = tests[place].variances[0], pools[row][place]
            is_pooled = len(tests[place].variances) == 1 and len(seeds) > 1
            seed_variance, case_variance = (
                float(variance.seeds[index]),
                float(variance.cases[index]),
            )
            found[row] = replace(
                found[row],
                distribution=self._distribution(pairs[row][place], seeds, groups),
                df=float(all_df[place][index]),
                seed_variance=seed_variance * len(seeds) if len(seeds) > 1 else float('nan'),
                case_variance=case_variance if groups > 1 else float('nan'),
                runs=pool.runs if is_pooled and pool else 0,
            )
        of_rows = [found[row] for row in rows]
        if contrasts[0].competitors:
            runs = min(one.runs if one else 1 for one in pools[0])
            completed = self._differences(of_rows, Comparison(tests), runs)
        else:
            completed = self._means(of_rows, tests[0])
        for row, one in zip(rows, completed, strict=True):
            found[row] = one
        return found

    def _with_values(
        self, found: Sequence[Estimate], values: np.ndarray, left_out: np.ndarray | None
    ) -> list[Estimate]:
        """Add values, and the reasons why there is no interval."""
        name, groups = self.measure.name, found[0].groups
        undefined = [0] * len(found)
        if left_out is not None:
            undefined = np.isnan(left_out).any((1, 3)).sum(-1)
        reasons = [
            f'{name} is undefined for a seed' if not is_defined
            else 'only one seed and one group of cases' if not one.resampled
            else f'{name} is undefined without {without} of {groups} groups' if without
            else ''
            for one, is_defined, without in zip(
                found, np.isfinite(values).all((1, 2)), undefined, strict=True
            )
        ]  # fmt: skip
        return [
            replace(one, value=float(value), undefined_reason=reason)
            for one, value, reason in zip(found, values.mean(-1).min(-1), reasons, strict=True)
        ]

    def _differences(
        self, found: Sequence[Estimate], comparison: Comparison, runs: int
    ) -> Iterator[Estimate]:
        """Add intervals and p-values of differences, or the reasons why they are not tested."""
        ends = (*comparison.interval(self.confidence), comparison.p)
        for row, one in enumerate(found):
            low, high, p = (float(end[row]) for end in ends)
            reason = one.not_repeated
            if not reason and len(one.seeds) == 2 and runs < FEWEST_RUNS:
                reason = f'2 seeds of {runs} run{"s" * (runs != 1)}'
            if not reason and np.isnan(p):
                reason = 'no variation'
            p = float('nan') if reason else p
            own = comparison[row]
            yield replace(one, low=low, high=high, p=p, undecided_reason=reason, comparison=own)

    def _means(self, found: Sequence[Estimate], test: Tested) -> Iterator[Estimate]:
        """Add the intervals of means, on the logit scale for percentages."""
        width = test.half_width(self.confidence)
        low, high = test.value - width, test.value + width
        if self.measure.info.unit == PERCENT:
            inside = (test.value >= 0) & (test.value <= 100)
            on_scale = test.percent_interval(self.confidence)
            low, high = (
                np.where(inside, *both) for both in zip(on_scale, (low, high), strict=True)
            )
        for row, one in enumerate(found):
            reason = ''
            if np.isnan(low[row]):
                reason = f'{self.measure.name} is {one.value:.0f} % for all seeds and groups'
            yield replace(one, low=float(low[row]), high=float(high[row]), undefined_reason=reason)

    def _contrasted(
        self,
        pairs: Sequence[Sequence[Pair]],
        values: Callable[[Entry, tuple[int, ...]], np.ndarray],
        seeds: tuple[int, ...],
    ) -> np.ndarray:
        """Return a mean or difference of each pair, (B, K, ...)."""

        def contrasted(entry: Entry, other: Entry | None) -> np.ndarray:
            own = values(entry, seeds)
            return own if other is None else self.sign * (own - values(other, seeds))

        return np.array([[contrasted(*pair) for pair in row] for row in pairs])

    def _values(self, entry: Entry, seeds: tuple[int, ...]) -> np.ndarray:
        """Return the value of each seed, (S,)."""
        return np.array([self.scores[entry][seed] for seed in seeds])

    def _left_out(self, entry: Entry, seeds: tuple[int, ...]) -> np.ndarray:
        """Return the value of each seed without each group, (G, S)."""
        return np.stack([self._replicates[entry, seed] for seed in seeds], 1)

    def _leave_out(self, wanted: Collection[tuple[Entry, int]]) -> None:
        """Compute the values of runs without each group, in the order in which they are read."""
        sums: dict[tuple[Entry, int], np.ndarray] = {}
        size = 0
        keys = [(entry, seed) for entry, own in self.counts.by_entry.items() for seed in own]
        missing = [key for key in keys if key in wanted and key not in self._replicates]
        for entry, seed in missing:
            counts = self.counts.by_entry[entry][seed].for_measure(self.measure)
            own = counts.leave_one_out()
            sums[entry, seed] = own(self.measure.ranked) if callable(own) else own
            size += sums[entry, seed].size
            if size > _CHUNK or (entry, seed) == missing[-1]:
                values = self.measure.values(list(sums.values()))
                self._replicates.update(zip(sums, values, strict=True))
                sums, size = {}, 0

    def _distribution(self, pair: Pair, seeds: tuple[int, ...], groups: int) -> np.ndarray:
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
