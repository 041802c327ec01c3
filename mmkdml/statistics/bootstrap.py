"""Bootstrap confidence intervals and p-values, paired by seed and by case."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mmkdml.optional import require
from mmkdml.statistics.counts import Counts, Entry, resampler
from mmkdml.statistics.measures import Measure

stats = require('scipy.stats', extra='experiments', purpose='confidence intervals')

RESAMPLES = 9999
_BATCH_INDICES = 2**21  # indices of groups that are drawn at once, 8 bytes each


@dataclass(frozen=True)
class Contrast:
    """A member's mean over seeds, or its difference from the best of several competitors.

    The best competitor is re-selected in every resample. If it were selected once, on the same test
    cases, the interval would not include the uncertainty of the selection.

    Attributes:
        entry: Run and member.
        competitors: Runs and members to compare with; empty for the mean itself.
    """

    entry: Entry
    competitors: tuple[Entry, ...] = ()


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Estimate:
    """A mean in percent, or a difference of means in points, over the seeds all entries share.

    Attributes:
        value: Value for the original seeds and cases.
        low: Lower end of the percentile interval.
        high: Upper end of the percentile interval.
        p: Two-sided p-value for a difference of 0: 2 (k + 1) / (n + 1), where k is the smaller
            number of bootstrap values on one side of 0; at most 1, NaN for a mean.
        distribution: The n bootstrap values; empty if the interval is undefined.
        seeds: The shared seeds.
        groups: Number of groups of test cases (patients, lesions).
        cases: Number of test cases (images).
        resampled: ``'seeds'``, ``'groups'`` or both. A single seed or group is not resampled, and
            the interval does not include its variation.
        undefined_reason: Reason why the interval, and possibly the value, is NaN; empty otherwise.
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
        """What there is only one of, so that no difference can be decided, e.g. ``'1 seed'``."""
        numbers = {'seed': len(self.seeds), 'group': self.groups}
        return ' and '.join(f'1 {name}' for name, number in numbers.items() if number == 1)


def estimate(
    counts: Counts,
    measure: str,
    contrasts: Sequence[Contrast],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    rng: int = 0,
) -> list[Estimate]:
    """Compute bootstrap intervals with :func:`scipy.stats.bootstrap`.

    Seeds and groups of cases are drawn with replacement, independently of each other. All entries
    of a contrast use the same resample, so differences are paired by seed and by case. Groups are
    drawn instead of images, because the images of a patient or lesion are not independent.

    The interval is too narrow for few seeds: the variance of the resampled means is (S - 1) / S of
    the unbiased estimate for S seeds, i.e., two thirds for three seeds.

    Args:
        counts: Counts of a suite, see :func:`~mmkdml.statistics.counts.count_cases`.
        measure: Name of one of :data:`~mmkdml.statistics.measures.MEASURES`.
        contrasts: Means and differences to estimate. Their results do not affect each other.
        confidence: Confidence level, in (0, 1).
        resamples: Number of bootstrap values, at least 1.
        rng: Random seed.

    Returns:
        One estimate for each contrast. The interval is undefined if a run is missing, no seed is
        shared, the cases differ, there is only one seed and one group, or the measure is undefined
        in a resample.

    Raises:
        ValueError: If the measure is unknown or belongs to another task, or if ``confidence`` or
            ``resamples`` is out of range.
    """
    checked_measure = counts.check_measure(measure)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            'Invalid bootstrap: expected confidence in (0, 1) and resamples >= 1, got '
            f'confidence={confidence} and resamples={resamples}'
        )
    estimates = [Estimate()] * len(contrasts)
    # Contrasts with the same seeds and cases share their resamples.
    shared: dict[tuple[tuple[int, ...], frozenset], list[int]] = {}
    for index, contrast in enumerate(contrasts):
        entries = (contrast.entry, *contrast.competitors)
        seeds, reason = _shared_seeds(counts, entries)
        if reason:
            estimates[index] = Estimate(seeds=seeds, undefined_reason=reason)
        else:
            cases = counts.by_entry[contrast.entry][seeds[0]].cases
            shared.setdefault((seeds, cases), []).append(index)
    for (seeds, _), indices in shared.items():
        chosen = [contrasts[index] for index in indices]
        found = _estimate_together(
            counts, checked_measure, chosen, seeds, confidence, resamples, rng
        )
        for index, one in zip(indices, found, strict=True):
            estimates[index] = one
    return estimates


def _shared_seeds(counts: Counts, entries: Sequence[Entry]) -> tuple[tuple[int, ...], str]:
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
            differing = len(counts.by_entry[name, member][seed].cases ^ first)
            if differing:
                return shared, (
                    f'{entries[0][0]} (seed {shared[0]}) and {name} (seed {seed}) were tested on '
                    f'different cases: {differing} are in only one of them'
                )
    return shared, ''


def _estimate_together(
    counts: Counts,
    measure: Measure,
    contrasts: Sequence[Contrast],
    seeds: tuple[int, ...],
    confidence: float,
    resamples: int,
    rng: int,
) -> list[Estimate]:
    """Estimate contrasts with the same seeds and cases from the same resamples."""
    entries = list(dict.fromkeys(e for one in contrasts for e in (one.entry, *one.competitors)))
    summed = resampler([counts.by_entry[entry][seed] for entry in entries for seed in seeds])
    cases = counts.by_entry[entries[0]][seeds[0]].cases
    sizes = {'seeds': len(seeds), 'groups': len({group for _, group in cases})}
    drawn = tuple(name for name, size in sizes.items() if size > 1)
    statistic = partial(_contrasted, measure, summed, entries, contrasts, sizes, drawn)
    original = statistic(*(np.arange(sizes[name])[None] for name in drawn))[:, 0]
    common: dict[str, Any] = dict(
        seeds=seeds, groups=sizes['groups'], cases=len(cases), resampled=drawn
    )
    if not drawn:
        reason = 'only one seed and one group of cases to resample'
        return [Estimate(float(value), undefined_reason=reason, **common) for value in original]
    with warnings.catch_warnings():
        # Undefined values are reported below.
        warnings.simplefilter('ignore', stats.DegenerateDataWarning)
        result = stats.bootstrap(
            [np.arange(sizes[name]) for name in drawn],
            statistic,
            n_resamples=resamples,
            # Independent of the contrasts, because it decides the order of random numbers.
            batch=max(1, min(1000, _BATCH_INDICES // sizes['groups'])),
            vectorized=True,
            confidence_level=confidence,
            method='percentile',
            rng=rng,
        )
    estimates = []
    for index, contrast in enumerate(contrasts):
        values = result.bootstrap_distribution[index]
        if undefined := np.isnan(values).sum():
            reason = f'{measure.name} is undefined in {undefined} of {resamples} resamples'
            estimates.append(Estimate(float(original[index]), undefined_reason=reason, **common))
            continue
        low, high = (float(end[index]) for end in result.confidence_interval)
        p = _p_value(values) if contrast.competitors else float('nan')
        estimates.append(Estimate(float(original[index]), low, high, p, values, **common))
    return estimates


def _contrasted(
    measure: Measure,
    summed: Callable[[np.ndarray], np.ndarray],
    entries: Sequence[Entry],
    contrasts: Sequence[Contrast],
    sizes: Mapping[str, int],
    drawn: Sequence[str],
    *indices: np.ndarray,
    axis: int = -1,
) -> np.ndarray:
    """Compute the contrasts of B resamples, (contrasts, B), from drawn indices, (B, size) each."""
    seeds = sizes['seeds']
    times = {name: np.ones((1, size)) for name, size in sizes.items()}
    times.update({n: _times_drawn(i, sizes[n]) for n, i in zip(drawn, indices, strict=True)})
    values = measure.value(summed(times['groups'])).reshape(-1, len(entries), seeds)
    means = (values * times['seeds'][:, None]).sum(-1).T / seeds
    by_entry = dict(zip(entries, means, strict=True))
    return np.stack(
        [
            by_entry[one.entry] - np.max([by_entry[e] for e in one.competitors] or [0], 0)
            for one in contrasts
        ]
    )


def _times_drawn(indices: np.ndarray, size: int) -> np.ndarray:
    """Count how often each index below ``size`` was drawn, (B, size), in each row of indices."""
    rows = len(indices)
    flat = (indices + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)


def _p_value(values: np.ndarray) -> float:
    exact = values.round(9)  # removes rounding errors, so that ties are recognized
    tail = min((exact <= 0).sum(), (exact >= 0).sum())
    return float(min(1, 2 * (tail + 1) / (len(values) + 1)))
