"""Average precision of detectors for any resample of groups of cases."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from mmkdml.names import BOX_IOUS

_RECALLS = np.linspace(0, 1, 101)
_CHUNK = 1 << 16  # detections x resamples that are computed at once: 512 KiB per array


class Detections:
    """Detections of one member, sorted so that the AP of a resample is a few cumulative sums.

    AP is that of the COCO benchmark: the mean of the interpolated precision at the recalls 0, 0.01,
    ..., 1 over IoUs and over the classes with true boxes. A group that was drawn n times counts n
    times, as if its images had been copied. Detections of equal score are in the order of the
    table.

    Args:
        rows: Rows of one member with valid labels, see :class:`mmkdml.evaluation.CaseTable`.
        places: Index of the group of each row, (R,).
        groups: Number of groups G.

    Raises:
        ValueError: If a score is not finite, or hits are not sets of COCO's IoUs.
    """

    def __init__(self, rows: pd.DataFrame, places: np.ndarray, groups: int) -> None:
        self.groups = groups
        scores = rows['score'].to_numpy()
        sets = rows[['hits', 'ignored']].to_numpy()
        if not np.isfinite(scores).all() or ((sets < 0) | (sets >= 1 << BOX_IOUS)).any():
            raise ValueError(
                'Invalid detections: expected finite scores, and hits and ignored in '
                f'[0, {1 << BOX_IOUS}). Test the run again'
            )
        labels, boxes = rows['label'].to_numpy(), rows['boxes'].to_numpy()
        order = np.argsort(-scores, kind='stable')
        order = order[rows['rank'].to_numpy()[order] > 0]
        self._classes = []
        for label in np.unique(labels[boxes > 0]):
            own = labels == label
            chosen = order[own[order]]
            true = np.bincount(places[own], boxes[own], groups)
            self._classes.append(_ClassDetections(true, places[chosen], *sets[chosen].T))
        self._known: dict[bytes, np.ndarray] = {}

    def summed(self, times: np.ndarray) -> np.ndarray:
        """Compute the average precision of B resamples.

        Results are kept, because all measures and tests of a suite use the same resamples.

        Args:
            times: How often each group was drawn, (B, G).

        Returns:
            Mean AP of IoUs 0.50, 0.55, ..., 0.95 and AP of IoU 0.50, as fractions, (B, 2); NaN
            without true boxes.
        """
        times = np.asarray(times, dtype=float)
        key = hashlib.blake2b(times.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._compute(times)
        return self._known[key]

    def by_group(self) -> np.ndarray:
        """Compute the average precision of each group, (G, 2), as in :meth:`summed`."""
        return self._compute(np.eye(self.groups))

    def _compute(self, times: np.ndarray) -> np.ndarray:
        found = np.full((len(times), 2), np.nan)
        longest = max((len(one.places) for one in self._classes), default=0)
        size = max(1, _CHUNK // max(1, longest))
        for start in range(0, len(times), size):
            columns = np.ascontiguousarray(times[start : start + size].T)
            total, occurring = np.zeros((2, columns.shape[1])), np.zeros(columns.shape[1])
            for one in self._classes:
                boxes = one.boxes @ columns
                total += np.where(boxes > 0, one.precisions(columns, np.maximum(boxes, 1)), 0)
                occurring += boxes > 0
            occurs = occurring > 0
            found[start : start + size][occurs] = (total[:, occurs] / occurring[occurs]).T
        return found


class _ClassDetections:
    """Detections of one class, sorted by falling score.

    Attributes:
        boxes: Number of true boxes by group, (G,).
        places: Index of the group of each detection, (D,).
    """

    def __init__(
        self, boxes: np.ndarray, places: np.ndarray, hits: np.ndarray, ignored: np.ndarray
    ) -> None:
        self.boxes, self.places = boxes, places
        bits = 1 << np.arange(BOX_IOUS)[:, None]
        self._hits = [np.flatnonzero(one) for one in hits & bits]
        self._ignored = [np.flatnonzero(one) for one in ignored & bits]

    def precisions(self, columns: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Compute AP, the mean of all IoUs and that of the first one, (2, B).

        Precision and recall only need to be known at the hits, where alone they increase.

        Args:
            columns: How often each group was drawn, (G, B).
            boxes: Number of true boxes, (B,), at least 1.
        """
        counted = np.cumsum(columns[self.places], axis=0)
        found = np.stack(
            [
                self._precision(columns, boxes, counted, hits, ignored)
                for hits, ignored in zip(self._hits, self._ignored, strict=True)
            ]
        )
        return np.stack([found.mean(0), found[0]])

    def _precision(
        self,
        columns: np.ndarray,
        boxes: np.ndarray,
        counted: np.ndarray,
        hits: np.ndarray,
        ignored: np.ndarray,
    ) -> np.ndarray:
        """Compute AP for one IoU, (B,), from the numbers of detections so far, (D, B)."""
        if not len(hits):
            return np.zeros(len(boxes))
        true = np.cumsum(columns[self.places[hits]], axis=0)  # (H, B)
        total = counted[hits]
        if len(ignored):
            weights = np.cumsum(columns[self.places[ignored]], axis=0)
            before = np.searchsorted(ignored, hits)
            total -= np.where((before > 0)[:, None], weights[before - 1], 0)
        precision = true / np.maximum(total, 1)
        # The highest precision at this recall or a higher one
        np.maximum.accumulate(precision[::-1], axis=0, out=precision[::-1])
        reached = _reached(true / boxes)  # rounded as in pycocotools
        reached[1:] -= reached[:-1].copy()
        return np.einsum('hb,hb->b', precision, reached) / len(_RECALLS)


def _reached(recall: np.ndarray) -> np.ndarray:
    """Count the recalls of the interpolation that are not above each value in [0, 1]."""
    # As np.searchsorted(_RECALLS, recall, 'right'), ten times as fast
    below = np.minimum(recall * 100 + 1e-9, 100).astype(np.int32)
    return below + (_RECALLS.take(below) <= recall)
