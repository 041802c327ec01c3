"""Confusion matrices, sensitivity, specificity and precision of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.batches import Batch, batches_of, confusion_counts
from mmkdml.evaluation.predictions import sum_by_name
from mmkdml.registry import METRICS


@METRICS.register_module()
class ConfusionMatrix(BaseMetric):
    """Sensitivity, specificity and precision of each class, for each member and the ensemble.

    Keys are ``<name>/per_class/sensitivity_<class>`` (also called recall), ``specificity_<class>``
    and ``precision_<class>``, in percent; the other classes together are the negatives. A value
    without any case to count is ``nan``: the sensitivity of a class without images, the precision
    of a class that is never predicted. :class:`MacroPrecisionRecall` averages the same values, with
    0 for such classes.

    After the evaluation :attr:`matrices` contains the confusion matrix of each member, (K, K), in
    the main process: the number of images (pixels of masks) by true class (rows) and predicted
    class (columns). :class:`mmkdml.engine.ConfusionHook` saves and draws them.

    If images can have several classes, each class has a matrix of its own, (2, 2), of its absence
    and presence; its name in :attr:`matrices` is ``'<member>: <class>'``.

    Args:
        ignore_index: Label of pixels that are ignored.
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: In ``process``, if a sample has no ground truth, or sizes differ.

    Example:
        >>> from mmpretrain.evaluation import Accuracy
        >>> from mmkdml.evaluation import ConfusionMatrix, MemberMetrics
        >>> metric = dict(type=MemberMetrics, metric=dict(type=Accuracy))
        >>> test_evaluator = [metric, dict(type=ConfusionMatrix)]
    """

    default_prefix = ''  # keys begin with the member's name

    def __init__(self, ignore_index: int = 255, collect_device: str = 'cpu') -> None:
        super().__init__(collect_device=collect_device)
        self.ignore_index = ignore_index
        self.matrices: dict[str, np.ndarray] = {}
        self._of_classes = False

    @property
    def table(self) -> pd.DataFrame:
        """The matrices as a table with the columns ``member, truth, predicted, count``."""
        return pd.DataFrame(
            [
                (name, self.class_names(len(matrix))[row], self.class_names(len(matrix))[column], n)
                for name, matrix in self.matrices.items()
                for (row, column), n in np.ndenumerate(matrix)
            ],
            columns=['member', 'truth', 'predicted', 'count'],
        )

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the predictions of N samples, as returned by ``predict``."""
        for batch in batches_of(data_samples, self.dataset_meta):
            counts = {name: self._count(batch, name) for name in batch.names}
            self.results.extend(
                {name: own[index] for name, own in counts.items()} for index in range(len(batch))
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the values from the counts of all samples, and set :attr:`matrices`."""
        sums = sum_by_name(results)
        self._of_classes = any(one.ndim == 3 for one in sums.values())
        if self._of_classes:
            self.matrices = {
                f'{name}: {label}': matrix
                for name, one in sums.items()
                for label, matrix in zip(self._dataset_classes(len(one)), one, strict=True)
            }
        else:
            self.matrices = sums
        return {
            f'{name}/per_class/{key}_{label}': float(value)
            for name, one in sums.items()
            for key, values in self._scores(one).items()
            for label, value in zip(self._dataset_classes(len(one)), values, strict=True)
        }

    @property
    def main_matrices(self) -> dict[str, np.ndarray]:
        """The matrices to draw: all, or of several labels those of the ensemble or network."""
        if not self._of_classes:
            return self.matrices
        last = list(self.matrices)[-1].partition(': ')[0]
        return {
            name.partition(': ')[2]: matrix
            for name, matrix in self.matrices.items()
            if name.partition(': ')[0] == last
        }

    def class_names(self, number: int) -> tuple[str, ...]:
        """Return the names of the rows and columns of a matrix of this size."""
        return ('absent', 'present') if self._of_classes else self._dataset_classes(number)

    def _dataset_classes(self, number: int) -> tuple[str, ...]:
        """Return the names of the classes, or their indices if the data set names others."""
        names = tuple(map(str, (self.dataset_meta or {}).get('classes') or ()))
        return names if len(names) == number else tuple(map(str, range(number)))

    def _scores(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        if not self._of_classes:
            return class_scores(matrix)
        present = [{key: both[1] for key, both in class_scores(one).items()} for one in matrix]
        return {key: np.array([one[key] for one in present]) for key in present[0]}

    def _count(self, batch: Batch, name: str) -> np.ndarray:
        """Return the matrices of N images, (N, K, K), or (N, K, 2, 2) for several labels."""
        truth, labels = batch.truth(), batch.labels(name)
        if batch.of_classes:
            hits = (truth.long() * 2 + labels).cpu().numpy()
            return np.eye(4, dtype=int)[hits].reshape(*hits.shape, 2, 2)
        classes = batch.number_of_classes(name)
        return confusion_counts([truth, labels], classes, self.ignore_index)


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Compute sensitivity, specificity and precision of each class, one against the others.

    Args:
        matrix: Counts by true class (rows) and predicted class (columns), (K, K).

    Returns:
        Percent by name, each (K,); ``nan`` for 0 / 0.
    """
    hits, occurring, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    negatives = matrix.sum() - occurring
    with np.errstate(invalid='ignore'):
        return {
            'sensitivity': 100 * hits / occurring,
            'specificity': 100 * (negatives - predicted + hits) / negatives,
            'precision': 100 * hits / predicted,
        }
