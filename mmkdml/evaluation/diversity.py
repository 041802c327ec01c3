"""Diversity of the students, from which their ensemble gains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.predictions import predictions_by_name, sum_by_name, truth_of
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.registry import METRICS


@METRICS.register_module()
class Diversity(BaseMetric):
    """Disagreement and error correlation of the students, per image or pixel.

    If images can have several classes, each class of an image is a prediction.

    - ``students/diversity/disagreement``: fraction of predictions in which two students differ
      (Kuncheva and Whitaker, 2003), in percent;
    - ``students/diversity/error_correlation``: Pearson correlation of the errors, in [-1, 1]: 1 if
      the students fail together, 0 if independently, negative if they complement each other.
      ``nan`` if one of them is always right or always wrong.

    Both are means over all pairs of students. With more than two students, each pair is also
    reported, e.g. ``disagreement_student_1_student_2``. With fewer than two, no values are
    reported.

    Args:
        students: Names of the students. Default: all members whose names do not begin with
            ``'teacher'``.
        ignore_index: Label of pixels that are ignored.
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: If fewer than two students are named; in ``process`` if one does not exist, a
            sample has no ground truth, or sizes differ.

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
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device)
        if students is not None and (isinstance(students, str) or len(students) < 2):
            raise ValueError(f'Invalid students: expected two or more names, got {students!r}')
        self.students = students
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the predictions of N samples, as returned by ``predict``."""
        for sample in data_samples:
            labels = {
                name: own.labels
                for name, own in predictions_by_name(sample, self.dataset_meta).items()
            }
            names = self.students or [
                name
                for name in labels
                if name not in (ENSEMBLE, PLAIN) and not name.startswith(TEACHER)
            ]
            missing = [name for name in names if name not in labels]
            if missing:
                raise ValueError(f'Invalid students {missing}: expected some of {list(labels)}')
            self.results.append(self._counts({name: labels[name] for name in names}, sample))

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

    def _counts(self, labels: dict[str, Any], sample: Any) -> dict[str, np.ndarray]:
        """Return the counts of :func:`_values` for each pair of students."""
        if len(labels) < 2:
            return {}
        truth = truth_of(sample, self.dataset_meta)
        sizes = {name: len(own) for name, own in labels.items()}
        if set(sizes.values()) != {len(truth)}:
            raise ValueError(
                f'expected predictions of the size of the truth, {len(truth)}, got {sizes}'
            )
        counted = (truth != self.ignore_index).cpu().numpy()
        known = {name: own.cpu().numpy()[counted] for name, own in labels.items()}
        wrong = {name: own != truth.cpu().numpy()[counted] for name, own in known.items()}
        return {
            f'{a}_{b}': np.array(
                [
                    counted.sum(),
                    (known[a] != known[b]).sum(),
                    wrong[a].sum(),
                    wrong[b].sum(),
                    (wrong[a] & wrong[b]).sum(),
                ],
                dtype=float,
            )
            for a, b in combinations(labels, 2)
        }


def _values(counts: np.ndarray) -> dict[str, float]:
    """Compute the values from the counts of predictions, differences and errors (a, b, both)."""
    with np.errstate(invalid='ignore'):
        differ, wrong_a, wrong_b, wrong_both = counts[1:] / counts[0]
        spread = np.sqrt(wrong_a * (1 - wrong_a) * wrong_b * (1 - wrong_b))
        correlation = (wrong_both - wrong_a * wrong_b) / spread if spread else np.nan
    return dict(disagreement=float(100 * differ), error_correlation=float(correlation))
