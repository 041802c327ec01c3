"""Diversity of the students, from which their ensemble gains."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.batches import Batch, batches_of, equal_to, row_counts
from mmkdml.evaluation.boxes.matching import MatchedBoxes
from mmkdml.evaluation.boxes.samples import (
    Boxes,
    TrueBoxes,
    boxes_by_name,
    check_score_threshold,
    has_boxes,
    true_boxes_of,
)
from mmkdml.evaluation.predictions import sum_by_name
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.registry import METRICS


@METRICS.register_module()
class Diversity(BaseMetric):
    """Disagreement and error correlation of the students, per image, pixel or box.

    If images can have several classes, each class of an image is a prediction.

    - ``students/diversity/disagreement``: fraction of predictions in which two students differ
      (Kuncheva and Whitaker, 2003), in percent;
    - ``students/diversity/error_correlation``: Pearson correlation of the errors, in [-1, 1]: 1 if
      the students fail together, 0 if independently, negative if they complement each other.
      ``nan`` if one of them is always right or always wrong.

    Boxes of detectors count if their score is at least ``score_threshold``. Those of two students
    are matched one to one at IoU 0.5, class by class, in order of falling score of the first
    student. The disagreement is the fraction of the boxes of both without a partner. An error is a
    true box that is not found, matched in the same way; false boxes count in the disagreement.

    Both are means over all pairs of students. With more than two students, each pair is also
    reported, e.g. ``disagreement_student_1_student_2``. With fewer than two, no values are
    reported.

    Args:
        students: Names of the students. Default: all members whose names do not begin with
            ``'teacher'``.
        ignore_index: Label of pixels that are ignored.
        score_threshold: Lowest score of boxes that count, in [0, 1].
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: If fewer than two students are named, or ``score_threshold`` is invalid; in
            ``process`` if one does not exist, a sample has no ground truth, or sizes differ.

    Example:
        >>> from mmpretrain.evaluation import Accuracy
        >>> from mmkdml.evaluation import Diversity, MemberMetrics
        >>> metric = dict(type=MemberMetrics, metric=dict(type=Accuracy))
        >>> test_evaluator = [metric, dict(type=Diversity)]
    """

    default_prefix = 'students/diversity'

    def __init__(
        self,
        students: Sequence[str] | None = None,
        ignore_index: int = 255,
        score_threshold: float = 0.3,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device)
        check_score_threshold(score_threshold)
        if students is not None and (isinstance(students, str) or len(students) < 2):
            raise ValueError(f'Invalid students: expected two or more names, got {students!r}')
        self.students = students
        self.ignore_index = ignore_index
        self.score_threshold = score_threshold

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the predictions of N samples, as returned by ``predict``."""
        if any(map(has_boxes, data_samples)):
            for sample in data_samples:
                found = boxes_by_name(sample)
                chosen = {name: found[name] for name in self._students_in(found)}
                self.results.append(self._counts_of_boxes(chosen, sample))
            return
        for batch in batches_of(data_samples, self.dataset_meta):
            self.results.extend(self._counts(batch, self._students_in(batch.names)))

    def _students_in(self, members: Collection[str]) -> Sequence[str]:
        """Return the names of the compared students, or none if there are fewer than two."""
        names = self.students or [
            name
            for name in members
            if name not in (ENSEMBLE, PLAIN) and not name.startswith(TEACHER)
        ]
        missing = [name for name in names if name not in members]
        if missing:
            raise ValueError(f'Invalid students {missing}: expected some of {list(members)}')
        return names if len(names) > 1 else ()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the values from the counts of all samples."""
        pairs = {pair: _values(counts) for pair, counts in sum_by_name(results).items()}
        if not pairs:
            return {}
        values = {
            key: float(np.mean([one[key] for one in pairs.values()]))
            for key in ('disagreement', 'error_correlation')
        }
        if len(pairs) > 1:
            values.update({f'{key}_{pair}': one[key] for pair, one in pairs.items() for key in one})
        return values

    def _counts_of_boxes(self, found: dict[str, Boxes], sample: Any) -> dict[str, np.ndarray]:
        """Return the counts of :func:`_values` for each pair of detectors."""
        if not found:
            return {}
        truth = true_boxes_of(sample)
        kept = {name: own.above(self.score_threshold) for name, own in found.items()}
        missed = {name: ~MatchedBoxes.of_image(own, truth).found for name, own in kept.items()}
        counts = {}
        for a, b in combinations(kept, 2):
            other = TrueBoxes(kept[b].boxes, kept[b].labels, np.zeros(len(kept[b].labels), bool))
            both = MatchedBoxes.of_image(kept[a], other)
            differ = (~both.right).sum() + (~both.found).sum()
            counts[f'{a}_{b}'] = _as_counts(
                len(both.right) + len(both.found), differ, missed[a], missed[b]
            )
        return counts

    def _counts(self, batch: Batch, names: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """Return the counts of :func:`_values` for each image and pair of students."""
        counts: list[dict[str, np.ndarray]] = [{} for _ in range(len(batch))]
        if not names:
            return counts
        truth = batch.truth()
        labels = {name: batch.labels(name) for name in names}
        wrong = {name: own != truth for name, own in labels.items()}
        ignored = equal_to(truth, self.ignore_index).byte() * 8
        for a, b in combinations(names, 2):
            differ = labels[a] != labels[b]
            events = ignored.add(wrong[a]).add_(wrong[b], alpha=2).add_(differ, alpha=4)
            # Axes: images, whether the students differ, whether b and a are wrong.
            found = row_counts(events, 16)[:, :8].reshape(-1, 2, 2, 2).cpu().numpy()
            for own, one in zip(counts, found, strict=True):
                errors = one[:, :, 1].sum(), one[:, 1].sum(), one[:, 1, 1].sum()
                numbers = [one.sum(), one[1].sum(), one.sum(), *errors]
                own[f'{a}_{b}'] = np.array(numbers, dtype=float)
        return counts


def _as_counts(number: int, differ: int, wrong_a: np.ndarray, wrong_b: np.ndarray) -> np.ndarray:
    """Return the numbers of compared predictions, differences, truths and errors, (6,)."""
    errors = wrong_a.sum(), wrong_b.sum(), (wrong_a & wrong_b).sum()
    return np.array([number, differ, len(wrong_a), *errors], dtype=float)


def _values(counts: np.ndarray) -> dict[str, float]:
    """Compute the values from the counts of :func:`_as_counts`."""
    with np.errstate(invalid='ignore'):
        differ = counts[1] / counts[0]
        wrong_a, wrong_b, wrong_both = counts[3:] / counts[2]
        spread = np.sqrt(wrong_a * (1 - wrong_a) * wrong_b * (1 - wrong_b))
        correlation = (wrong_both - wrong_a * wrong_b) / spread if spread else np.nan
    return dict(disagreement=float(100 * differ), error_correlation=float(correlation))
