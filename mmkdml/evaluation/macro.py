"""Macro precision, recall and F1 with scikit-learn's treatment of absent classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import print_log
from mmpretrain.evaluation import SingleLabelMetric

from mmkdml.evaluation.foreground import nan_mean
from mmkdml.evaluation.predictions import is_multi_label
from mmkdml.registry import METRICS

ITEMS = ('precision', 'recall', 'f1-score')


@METRICS.register_module()
class MacroPrecisionRecall(SingleLabelMetric):
    """Precision, recall and F1 of the top-1 class, averaged over classes, in percent.

    Equals ``sklearn.metrics.precision_recall_fscore_support(truth, predicted, average='macro',
    zero_division=0)``: the mean over the classes that occur in truth or predictions. The precision
    of a class that is never predicted and the recall of a class without images are
    ``zero_division``; such classes are logged. mmpretrain's ``SingleLabelMetric`` averages over all
    classes of the data set instead, with 0 for those that do not occur.

    Args:
        items: Some of ``'precision'``, ``'recall'`` and ``'f1-score'``.
        zero_division: 0 or 1; NaN excludes undefined values from the mean.
        **kwargs: ``num_classes``, ``collect_device`` and ``prefix`` of ``SingleLabelMetric``.

    Raises:
        ValueError: If ``items`` or ``zero_division`` is invalid; in ``process`` if images can have
            several classes.
    """

    _logged: ClassVar[set[str]] = set()  # messages are logged once, not per member and epoch

    def __init__(
        self,
        items: Sequence[str] = ('precision', 'recall'),
        zero_division: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not items or not set(items) <= set(ITEMS):
            raise ValueError(f'Invalid items: expected some of {", ".join(ITEMS)}, got {items!r}')
        if zero_division not in (0, 1) and not math.isnan(zero_division):
            raise ValueError(f'Invalid zero_division: expected 0, 1 or nan, got {zero_division!r}')
        super().__init__(items=items, **kwargs)
        self.zero_division = zero_division

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store the truth and prediction of N samples.

        Raises:
            ValueError: If images can have several classes.
        """
        if any(is_multi_label(sample, self.dataset_meta) for sample in data_samples):
            raise ValueError(
                'MacroPrecisionRecall is for one class per image, got multi-label predictions. Use '
                "mmpretrain's MultiLabelMetric and AveragePrecision"
            )
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from the truth and the scores or predicted label of each image."""
        truth = torch.cat([one['gt_label'] for one in results]).numpy()
        if 'pred_score' in results[0]:
            scores = torch.stack([one['pred_score'] for one in results])
            predicted, classes = scores.argmax(1).numpy(), scores.shape[1]
        else:
            predicted = torch.cat([one['pred_label'] for one in results]).numpy()
            classes = results[0]['num_classes']
        tp = np.bincount(truth[truth == predicted], minlength=classes).astype(float)
        support = np.bincount(truth, minlength=classes)
        assigned = np.bincount(predicted, minlength=classes)
        self._log(np.flatnonzero(support == 0), np.flatnonzero((assigned == 0) & (support > 0)))
        occurring = support + assigned > 0
        values = {
            'precision': self._ratio(tp, assigned),
            'recall': self._ratio(tp, support),
            'f1-score': self._ratio(2 * tp, assigned + support),
        }
        return {item: 100 * nan_mean(values[item][occurring]) for item in self.items}

    def _ratio(self, part: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.where(total > 0, part / np.maximum(total, 1), self.zero_division)

    def _log(self, absent: np.ndarray, unpredicted: np.ndarray) -> None:
        rule = 'is excluded' if math.isnan(self.zero_division) else f'is {self.zero_division:g}'
        if len(absent):
            self._log_once(
                f'No images of {self._names(absent)}. As in scikit-learn, their recall {rule} in '
                'macro means if they are predicted; otherwise they are excluded',
                logging.WARNING,
            )
        if len(unpredicted):
            self._log_once(
                f'{self._names(unpredicted)} never predicted: precision {rule} in macro means',
                logging.INFO,
            )

    def _log_once(self, message: str, level: int) -> None:
        if message not in self._logged:
            self._logged.add(message)
            print_log(message, logger='current', level=level)

    def _names(self, labels: np.ndarray) -> str:
        names = (self.dataset_meta or {}).get('classes') or ()
        known = [repr(names[x]) if x < len(names) else str(x) for x in labels]
        return f'class{"es" * (len(known) > 1)} {", ".join(known)}'
