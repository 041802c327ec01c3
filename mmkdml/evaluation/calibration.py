"""Calibration error of members and ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.predictions import Predictions, predictions_by_name, sum_by_name, truth_of
from mmkdml.registry import METRICS


@METRICS.register_module()
class Calibration(BaseMetric):
    """Expected calibration error of each member and of the ensemble.

    The confidence of a prediction is the probability of the predicted class; for masks each pixel
    is a prediction. ``<name>/calibration/ECE`` is the expected calibration error of Guo et al.
    (2017), in percent: the mean of |accuracy - confidence| over bins of equal width, weighted by
    their numbers of predictions.

    After the evaluation :attr:`table` contains the reliability diagrams, in the main process: a row
    per bin with the columns ``member, low, high, answers, confidence, accuracy``. ``answers`` is
    the number of predictions; the other numbers are in [0, 1], or ``nan`` in empty bins.
    :class:`mmkdml.engine.ReliabilityHook` saves and draws it.

    Stores three numbers per bin, whereas the calibration error of torchmetrics stores every
    prediction (gigabytes for pixels).

    Args:
        bins: Number of bins in [0, 1].
        ignore_index: Label of pixels that are ignored.
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: If ``bins`` is less than 1; in ``process`` if a sample has no ground truth, or
            sizes differ.

    Example:
        >>> metric = dict(type=MemberMetrics, metric=dict(type=Accuracy))
        >>> test_evaluator = [metric, dict(type=Calibration)]
    """

    default_prefix = ''  # keys begin with the member's name

    def __init__(
        self, bins: int = 15, ignore_index: int = 255, collect_device: str = 'cpu'
    ) -> None:
        super().__init__(collect_device=collect_device)
        if bins < 1:
            raise ValueError(f'Invalid bins: expected at least 1, got {bins}')
        self.bins = bins
        self.ignore_index = ignore_index
        self.table = pd.DataFrame()

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the predictions of N samples, as returned by ``predict``."""
        for sample in data_samples:
            truth = truth_of(sample)
            predictions = predictions_by_name(sample)
            self.results.append(
                {name: self._binned(own, truth, name) for name, own in predictions.items()}
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the calibration errors from the counts of all samples, and set :attr:`table`."""
        edges = np.linspace(0, 1, self.bins + 1)
        tables, values = [], {}
        for name, (number, confidence, right) in sum_by_name(results).items():
            error = np.abs(right - confidence).sum() / number.sum() if number.sum() else np.nan
            values[f'{name}/calibration/ECE'] = float(100 * error)
            number_or_nan = np.where(number > 0, number, np.nan)
            tables.append(
                pd.DataFrame(
                    dict(
                        member=name,
                        low=edges[:-1],
                        high=edges[1:],
                        answers=number.astype(int),
                        confidence=confidence / number_or_nan,
                        accuracy=right / number_or_nan,
                    )
                )
            )
        if not tables:
            return {}
        self.table = pd.concat(tables, ignore_index=True)
        return values

    def _binned(self, predictions: Predictions, truth: torch.Tensor, name: str) -> np.ndarray:
        """Return (3, bins): number of predictions, sum of confidences, number of correct ones."""
        if len(truth) != len(predictions.labels):
            raise ValueError(
                f'expected predictions of the size of the truth, {len(truth)}, got '
                f'{len(predictions.labels)} of {name}'
            )
        counted = truth != self.ignore_index
        labels = predictions.labels[counted]
        confidence = predictions.probabilities[counted].gather(1, labels[:, None]).squeeze(1)
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64, device=labels.device)
        # Bins are [low, high), as in torchmetrics; the last one includes 1.
        places = torch.bucketize(confidence, edges[1:-1], right=True)
        right = (labels == truth[counted]).double()
        return np.stack(
            [
                torch.bincount(places, weights=weights, minlength=self.bins).cpu().numpy()
                for weights in (torch.ones_like(right), confidence, right)
            ]
        )
