"""Bootstrap distributions of means and differences for figures, paired by seed and by case."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from mmkdml.optional import require
from mmkdml.statistics.measures import Measure
from mmkdml.statistics.ranking import Sums

_BATCH_INDICES = 2**21  # indices of groups that are drawn at once, 8 bytes each


def bootstrap(
    measure: Measure,
    summed: Callable[[np.ndarray], np.ndarray | Sums],
    signs: Sequence[int],
    seeds: int,
    groups: int,
    resamples: int,
    rng: int,
) -> np.ndarray:
    """Draw seeds and groups of cases with replacement, independently of each other.

    All entries use the same resamples, so differences are paired by seed and by case. A single seed
    or group is not resampled. The variance over seeds is (S - 1) / S of the unbiased estimate,
    two thirds for three seeds, so tests and intervals are not computed from these values.

    Args:
        measure: The measure.
        summed: Result of :func:`~mmkdml.statistics.counts.resampler` for E entries x S seeds.
        signs: Weight of each of E entries: 1 for a mean, 1 and -1 for a difference.
        seeds: Number of seeds S.
        groups: Number of groups of cases G.
        resamples: Number of values n, at least 1.
        rng: Random seed.

    Returns:
        The values, (n,); NaN where the measure is undefined in a resample.
    """
    # The import is slow, and only figures need it.
    stats = require('scipy.stats', extra='experiments', purpose='confidence intervals')
    sizes = {'seeds': seeds, 'groups': groups}
    drawn = [name for name, size in sizes.items() if size > 1]
    with warnings.catch_warnings():
        # Only the distribution is used, whose interval may be undefined.
        warnings.simplefilter('ignore', stats.DegenerateDataWarning)
        result = stats.bootstrap(
            [np.arange(sizes[name]) for name in drawn],
            partial(_contrasted, measure, summed, signs, sizes, drawn),
            n_resamples=resamples,
            # Independent of the contrasts, because it decides the order of random numbers.
            batch=max(1, min(1000, _BATCH_INDICES // groups)),
            vectorized=True,
            method='percentile',
            rng=rng,
        )
    return np.asarray(result.bootstrap_distribution)


def _contrasted(
    measure: Measure,
    summed: Callable[[np.ndarray], np.ndarray | Sums],
    signs: Sequence[int],
    sizes: dict[str, int],
    drawn: Sequence[str],
    *indices: np.ndarray,
    axis: int = -1,
) -> np.ndarray:
    """Compute the values of B resamples, (B,), from drawn indices, (B, size) each."""
    times = {name: np.ones((1, size)) for name, size in sizes.items()}
    times.update({n: _times_drawn(i, sizes[n]) for n, i in zip(drawn, indices, strict=True)})
    values = measure.value(summed(times['groups'])).reshape(-1, len(signs), sizes['seeds'])
    return (values * times['seeds'][:, None]).sum(-1) @ np.array(signs) / sizes['seeds']


def _times_drawn(indices: np.ndarray, size: int) -> np.ndarray:
    """Count how often each index below ``size`` was drawn, (B, size), in each row of indices."""
    rows = len(indices)
    flat = (indices + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)
