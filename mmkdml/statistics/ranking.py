"""ROC and precision-recall curves of classes for any resample of groups of cases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property

import numpy as np

Sums = Callable[[bool], np.ndarray]
"""Function of whether values of curves are wanted, or counts; see :class:`Scored`."""

#: Measures of :class:`Ranking`, with the specificity that the sensitivity needs.
RANKED = ('AUROC', 'AUPRC', 'sensitivity_at_95')
_SPECIFICITY = 0.95
_CHUNK = 1 << 18  # cases x resamples that are computed at once: 2 MiB per array


class Ranking:
    """Scores of one member, sorted so that curves of a resample are a few cumulative sums.

    A group that was drawn n times counts n times, as if its cases had been copied. Cases of equal
    score are one point of the curve.

    Args:
        scores: Score of each class, (N, K), finite.
        truth: Whether a case has the class, (N, K), bool.
        places: Index of the group of each case, (N,).
        groups: Number of groups G.
    """

    def __init__(
        self, scores: np.ndarray, truth: np.ndarray, places: np.ndarray, groups: int
    ) -> None:
        self.groups = groups
        self._classes = []
        for own, positive in zip(scores.T, truth.T, strict=True):
            order = np.argsort(-own, kind='stable')
            starts = np.flatnonzero(np.diff(own[order], prepend=np.inf))  # of equal scores
            self._classes.append((places[order], positive[order], starts))
        self._known: dict[bytes, np.ndarray] = {}

    def summed(self, times: np.ndarray) -> np.ndarray:
        """Compute the values of B resamples.

        Results are kept, because all measures and tests of a suite use the same resamples.

        Args:
            times: How often each group was drawn, (B, G).

        Returns:
            Fractions, (B, 3, K): area under the ROC curve, average precision, and sensitivity at
            a specificity of 95 %; NaN for a class without cases or without others.
        """
        times = np.asarray(times, dtype=float)
        key = hashlib.blake2b(times.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._compute(times)
        return self._known[key]

    def _compute(self, times: np.ndarray) -> np.ndarray:
        found = np.empty((len(times), len(RANKED), len(self._classes)))
        size = max(1, _CHUNK // max(1, *(len(one[0]) for one in self._classes)))
        for start in range(0, len(times), size):
            columns = np.ascontiguousarray(times[start : start + size].T)
            for label, one in enumerate(self._classes):
                found[start : start + size, :, label] = _curve_values(columns, *one).T
        return found


class Scored:
    """Counts and scores of one member. Curves are only computed if a measure needs them.

    Args:
        counts: Sums over the cases of each group, (G, R, K).
        scores, truth, places: See :class:`Ranking`.
    """

    def __init__(
        self, counts: np.ndarray, scores: np.ndarray, truth: np.ndarray, places: np.ndarray
    ) -> None:
        self.counts, self.groups = counts, len(counts)
        self._inputs = scores, truth, places

    def summed(self, times: np.ndarray) -> Sums:
        """Return the sums of B resamples; see :class:`Ranking` for ``times``.

        Returns:
            Function that returns the values of curves, (B, 3, K), or the counts, (B, R, K).
        """
        return lambda ranked: (
            self._ranking.summed(times) if ranked else np.tensordot(times, self.counts, 1)
        )

    def by_group(self) -> Sums:
        """Return the sums of each group, as in :meth:`summed`."""
        return self.summed(np.eye(self.groups))

    @cached_property
    def _ranking(self) -> Ranking:
        return Ranking(*self._inputs, self.groups)


def _curve_values(
    columns: np.ndarray, places: np.ndarray, positive: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Compute the values of one class, (3, B), from the numbers of draws, (G, B)."""
    weights = columns[places]
    hits = np.add.reduceat(weights * positive[:, None], starts)  # of each score, (T, B)
    alarms = np.add.reduceat(weights, starts) - hits
    true, false = hits.cumsum(0), alarms.cumsum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        # Each alarm is below the hits of higher scores, and half below those of the same score.
        area = (alarms * (true - hits / 2)).sum(0) / (true[-1] * false[-1])
        precision = (hits * true / np.maximum(true + false, 1)).sum(0) / true[-1]
        allowed = false <= (1 - _SPECIFICITY) * false[-1] + 1e-9
        sensitivity = (true * allowed).max(0) / true[-1]
    undefined = (true[-1] == 0) | (false[-1] == 0)
    return np.where(undefined, np.nan, [area, precision, sensitivity])
