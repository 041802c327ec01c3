"""Bootstrap intervals and p-values that are paired by seed and by case."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

from mmkdml.statistics.counts import Counts, Entry
from mmkdml.statistics.measures import Measure

RESAMPLES = 9999
_DRAWN_AT_ONCE = 2**21  # indices of groups, 8 bytes each


@dataclass(frozen=True)
class Contrast:
    """What is estimated: a member's mean over seeds, or how far it is above that of others.

    Of several rivals the best one counts, and which one is best is asked anew in each resample.
    Had it been chosen once, from the same test part, its luck there would pass for quality, and
    the interval would tell nothing of the choice.

    Attributes:
        entry: Run and member.
        rivals: What it is compared with; none for the mean itself.
    """

    entry: Entry
    rivals: tuple[Entry, ...] = ()


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Estimate:
    """A mean or a difference of means over the seeds that all sides share, in percent (points).

    Attributes:
        value: From the runs as they are.
        low: Lower end of the percentile interval.
        high: Upper end.
        p: Two-sided p-value of a difference of 0, (k + 1) / (n + 1) on either side; ``nan`` for a
            mean.
        distribution: The n bootstrap values; empty if not computable.
        seeds: The seeds it is from.
        groups: Number of groups of cases (patients, lesions) in the test part.
        resampled: What was drawn: ``'seeds'``, ``'groups'`` or both. What there is only one of
            cannot be drawn, and its variation is not in the interval.
        problem: Why there is no interval; empty if there is one.
    """

    value: float = float('nan')
    low: float = float('nan')
    high: float = float('nan')
    p: float = float('nan')
    distribution: np.ndarray = field(default_factory=lambda: np.empty(0))
    seeds: tuple[int, ...] = ()
    groups: int = 0
    resampled: tuple[str, ...] = ()
    problem: str = ''


def estimate(
    counts: Counts,
    measure: str,
    contrasts: Sequence[Contrast],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    rng: int = 0,
) -> list[Estimate]:
    """Bootstrap intervals, from :func:`scipy.stats.bootstrap`.

    Seeds and groups of cases are drawn with replacement, each for itself (crossed). All sides of a
    contrast, and all seeds, get the same groups, and all sides the same seeds: differences are
    paired by seed and by case. Whole groups are drawn since the images of one are alike.

    Few seeds understate their variation: the variance of the drawn means is (S - 1) / S of what it
    should be, two thirds for three seeds.

    Args:
        counts: Counts of a suite, see :func:`~mmkdml.statistics.counts.count_cases`.
        measure: A name among :data:`~mmkdml.statistics.measures.MEASURES`.
        contrasts: What to estimate. The answer to one does not depend on the others.
        confidence: Level of the intervals, in (0, 1).
        resamples: Number of bootstrap values, 1 or more.
        rng: Seed; the same one gives the same answer.

    Returns:
        One for each contrast. Where a side has no run, no seed is shared, the cases differ, there
        is one seed and one group only, or the measure is undefined in a resample, ``problem`` says
        so.

    Raises:
        ValueError: If there is no such measure, or it is one of another task; if ``confidence`` or
            ``resamples`` is out of range.
    """
    of = counts.checked(measure)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            'expected a confidence between 0 and 1 and at least 1 resample, got '
            f'{confidence} and {resamples}'
        )
    answers = [Estimate()] * len(contrasts)
    alike: dict[tuple[tuple[int, ...], frozenset], list[int]] = {}
    for index, contrast in enumerate(contrasts):
        entries = (contrast.entry, *contrast.rivals)
        seeds, problem = _shared_seeds(counts, entries)
        if problem:
            answers[index] = Estimate(seeds=seeds, problem=problem)
        else:
            cases = counts.samples[contrast.entry][seeds[0]].cases
            alike.setdefault((seeds, cases), []).append(index)
    for (seeds, _), indices in alike.items():
        chosen = [contrasts[index] for index in indices]
        found = _estimate_together(
            counts, of, chosen, seeds, confidence=confidence, resamples=resamples, rng=rng
        )
        for index, answer in zip(indices, found, strict=True):
            answers[index] = answer
    return answers


def _shared_seeds(counts: Counts, entries: Sequence[Entry]) -> tuple[tuple[int, ...], str]:
    """Seeds that all entries have, and what speaks against comparing them, if anything does."""
    for name, member in entries:
        if (name, member) not in counts.samples:
            return (), f'no finished run of {name} tells of {member}'
    seeds = {entry: set(counts.samples[entry]) for entry in entries}
    shared = tuple(sorted(set.intersection(*seeds.values())))
    if not shared:
        each = ', '.join(f'{name} has {sorted(seeds[name, member])}' for name, member in entries)
        return (), f'no seed is shared: {each}'
    first = counts.samples[entries[0]][shared[0]].cases
    for name, member in entries:
        for seed in shared:
            differing = len(counts.samples[name, member][seed].cases ^ first)
            if differing:
                return shared, (
                    f'{entries[0][0]} (seed {shared[0]}) and {name} (seed {seed}) were tested on '
                    f'different cases: {differing} are in one of them only'
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
    """Estimates of contrasts with the same seeds and cases: each resample is drawn once for all."""
    entries = list(dict.fromkeys(e for one in contrasts for e in (one.entry, *one.rivals)))
    # (G, entries, seeds, 3, K)
    stacked = np.stack(
        [np.stack([counts.samples[entry][s].counts for s in seeds], 1) for entry in entries], 1
    )
    sizes = {'seeds': len(seeds), 'groups': len(stacked)}
    drawn = tuple(name for name, size in sizes.items() if size > 1)
    of = partial(_contrasted, measure, stacked, entries, contrasts, drawn)
    as_they_are = of(*(np.arange(sizes[name])[None] for name in drawn))[:, 0]
    common: dict[str, Any] = dict(seeds=seeds, groups=sizes['groups'], resampled=drawn)
    if not drawn:
        problem = f'one seed and {sizes["groups"]} group of cases leave nothing to draw from'
        return [Estimate(float(value), problem=problem, **common) for value in as_they_are]
    with warnings.catch_warnings():
        # Of undefined values, which are told of below.
        warnings.simplefilter('ignore', DegenerateDataWarning)
        result = bootstrap(
            [np.arange(sizes[name]) for name in drawn],
            of,
            n_resamples=resamples,
            # By the number of groups alone: it decides in what order random numbers are used.
            batch=max(1, min(1000, _DRAWN_AT_ONCE // sizes['groups'])),
            vectorized=True,
            confidence_level=confidence,
            method='percentile',
            rng=rng,
        )
    answers = []
    for index, contrast in enumerate(contrasts):
        values = result.bootstrap_distribution[index]
        undefined = np.isnan(values).sum()
        if undefined:
            problem = f'{measure.name} is undefined in {undefined} of {resamples} resamples'
            answers.append(Estimate(float(as_they_are[index]), problem=problem, **common))
            continue
        low, high = (float(end[index]) for end in result.confidence_interval)
        p = _p_value(values) if contrast.rivals else float('nan')
        answers.append(Estimate(float(as_they_are[index]), low, high, p, values, **common))
    return answers


def _contrasted(
    measure: Measure,
    stacked: np.ndarray,
    entries: Sequence[Entry],
    contrasts: Sequence[Contrast],
    drawn: Sequence[str],
    *indices: np.ndarray,
    axis: int = -1,
) -> np.ndarray:
    """Values of the contrasts, (C, B), for B resamples given by their indices, each (B, size)."""
    groups, _, seeds, _, classes = stacked.shape
    size = {'seeds': seeds, 'groups': groups}
    times = {name: np.ones((1, size[name])) for name in size}
    times.update({n: _times(i, size[n]) for n, i in zip(drawn, indices, strict=True)})
    summed = times['groups'] @ stacked.reshape(groups, -1)
    values = measure.value(summed.reshape(-1, len(entries), seeds, 3, classes))
    means = (values * times['seeds'][:, None]).sum(-1).T / seeds
    row = {entry: means[index] for index, entry in enumerate(entries)}
    return np.stack(
        [
            row[one.entry] - (np.max([row[r] for r in one.rivals], 0) if one.rivals else 0)
            for one in contrasts
        ]
    )


def _times(indices: np.ndarray, size: int) -> np.ndarray:
    """How often each of ``size`` things was drawn, (B, size), from the indices drawn, (B, size)."""
    rows = len(indices)
    flat = (indices + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)


def _p_value(values: np.ndarray) -> float:
    exact = values.round(9)  # sums in another order are off by less: ties are ties
    tail = min((exact <= 0).sum(), (exact >= 0).sum())
    return float(min(1, 2 * (tail + 1) / (len(values) + 1)))
