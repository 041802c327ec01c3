"""Whether members are right as often as they are sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.predictions import Predictions, predictions_by_name, summed, truth_of
from mmkdml.registry import METRICS


@METRICS.register_module()
class Calibration(BaseMetric):
    """The calibration error of each member and the ensemble.

    The confidence of an answer is the probability of the class that was chosen; each pixel of a
    mask is an answer. ``<name>/calibration/ECE`` is Guo et al.'s (2017) expected calibration
    error: over bins of equal width the mean of |accuracy - confidence|, weighted by the answers in
    them; in percent. After the evaluation :attr:`table` holds, in the main process, the diagrams:
    ``member, low, high, answers, confidence, accuracy``, a row for each bin; shares in [0, 1],
    ``nan`` where a bin is empty; :class:`mmkdml.engine.ReliabilityHook` writes and draws them.

    torchmetrics has this error, too, but keeps every answer to compute it, which for the pixels of
    a data set is gigabytes; here are three numbers for each bin.

    Args:
        bins: Number of bins between 0 and 1.
        ignore_index: Value of a truth whose pixels are not counted.
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: If ``bins`` is below 1; while processing, if a sample has no truth, or answers
            differ from it in size.

    Example:
        >>> test_evaluator = [
        ...     dict(type=MemberMetrics, metric=dict(type=Accuracy)),
        ...     dict(type=Calibration),
        ... ]
    """

    default_prefix = ''  # the members' names take its place

    def __init__(
        self, bins: int = 15, ignore_index: int = 255, collect_device: str = 'cpu'
    ) -> None:
        super().__init__(collect_device=collect_device)
        if bins < 1:
            raise ValueError(f'bins must be at least 1, got {bins}')
        self.bins = bins
        self.ignore_index = ignore_index
        self.table = pd.DataFrame()

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Counts the answers of N samples, as ``predict`` returned them."""
        for sample in data_samples:
            truth = truth_of(sample)
            self.results.append(
                {
                    name: self._binned(answers, truth, name)
                    for name, answers in predictions_by_name(sample).items()
                }
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The errors of all samples; fills :attr:`table`."""
        edges = np.linspace(0, 1, self.bins + 1)
        tables, values = [], {}
        for name, (answers, confidence, right) in summed(results).items():
            error = np.abs(right - confidence).sum() / answers.sum() if answers.sum() else np.nan
            values[f'{name}/calibration/ECE'] = float(100 * error)
            answers_or_nan = np.where(answers > 0, answers, np.nan)
            tables.append(
                pd.DataFrame(
                    dict(
                        member=name,
                        low=edges[:-1],
                        high=edges[1:],
                        answers=answers.astype(int),
                        confidence=confidence / answers_or_nan,
                        accuracy=right / answers_or_nan,
                    )
                )
            )
        if not tables:
            return {}
        self.table = pd.concat(tables, ignore_index=True)
        return values

    def _binned(self, answers: Predictions, truth: torch.Tensor, name: str) -> np.ndarray:
        """(3, bins): number of answers, sum of their confidences, number of right ones."""
        if len(truth) != len(answers.labels):
            raise ValueError(
                f'expected answers of the size of the truth, {len(truth)}, got '
                f'{len(answers.labels)} of {name}'
            )
        counted = truth != self.ignore_index
        labels = answers.labels[counted]
        confidence = answers.probabilities[counted].gather(1, labels[:, None]).squeeze(1)
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64, device=labels.device)
        # [low, high), as in torchmetrics; the last bin has its upper end, too.
        places = torch.bucketize(confidence, edges[1:-1], right=True)
        right = (labels == truth[counted]).double()
        return np.stack(
            [
                torch.bincount(places, weights=weights, minlength=self.bins).cpu().numpy()
                for weights in (torch.ones_like(right), confidence, right)
            ]
        )
