"""Calibration error of members and ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.boxes.matching import MatchedBoxes
from mmkdml.evaluation.boxes.samples import (
    boxes_by_name,
    check_score_threshold,
    has_boxes,
    true_boxes_of,
)
from mmkdml.evaluation.predictions import (
    Predictions,
    mask_of,
    predictions_by_name,
    sum_by_name,
    truth_of,
)
from mmkdml.registry import METRICS

#: Values of the column ``region``.
ALL, NEAR_FOREGROUND, BOXES = 'all', 'near foreground', 'boxes'
_KEYS = {
    ALL: 'calibration/ECE',
    NEAR_FOREGROUND: 'calibration/ECE_near_foreground',
    BOXES: 'calibration/D-ECE',
}


@METRICS.register_module()
class Calibration(BaseMetric):
    """Expected calibration error of each member and of the ensemble.

    The confidence of a prediction is the probability of the predicted class; for masks each pixel
    is a prediction, and if images can have several classes, each class of an image is one (present
    or absent). ``<name>/calibration/ECE`` is the expected calibration error of Guo et al.
    (2017), a fraction in [0, 1]: the mean of ``|accuracy - confidence|`` over bins of equal width,
    weighted by their numbers of predictions.

    Most pixels of a medical image are easy background, and hide the calibration at the lesion.
    Masks therefore also have ``<name>/calibration/ECE_near_foreground``: the same error over the
    pixels that are at most ``margin`` rows and columns away from a foreground pixel of the truth.
    The region does not depend on predictions, so that it is the same for all members and runs.
    Images without true foreground and distant false positives count only in ``ECE``. The value is
    ``nan`` if there is no true foreground. Class 0 is the background.

    Detectors have ``<name>/calibration/D-ECE`` instead, the detection expected calibration error of
    Kueppers et al. (2020): a box is a prediction, its score the confidence, and it is right if it
    is matched at IoU 0.5 with a true box of its class, see
    :func:`~mmkdml.evaluation.boxes.matching.match_boxes`. Boxes are binned only by score, not by
    place and size. Those with a lower score than ``score_threshold`` are left out.

    After the evaluation :attr:`table` contains the reliability diagrams, in the main process: a row
    per bin with the columns ``region, member, low, high, count, confidence, accuracy``. ``region``
    is ``'all'``, or for masks also ``'near foreground'``, or ``'boxes'`` for detectors; ``count``
    is the number of predictions; the other numbers are in [0, 1], or ``nan`` in empty bins.
    :class:`mmkdml.engine.ReliabilityHook` saves and draws it.

    Stores three numbers per bin and region, whereas the calibration error of torchmetrics stores
    every prediction (gigabytes for pixels).

    Args:
        bins: Number of bins in [0, 1].
        margin: Size of the neighborhood of the foreground, in pixels of the original image.
        ignore_index: Label of pixels that are ignored.
        score_threshold: Lowest score of boxes that count, in [0, 1].
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: If ``bins``, ``margin`` or ``score_threshold`` is out of range; in ``process``
            if a sample has no ground truth, or sizes differ.

    Example:
        >>> from mmpretrain.evaluation import Accuracy
        >>> from mmkdml.evaluation import Calibration, MemberMetrics
        >>> metric = dict(type=MemberMetrics, metric=dict(type=Accuracy))
        >>> test_evaluator = [metric, dict(type=Calibration)]
    """

    default_prefix = ''  # keys begin with the member's name

    def __init__(
        self,
        bins: int = 15,
        margin: int = 10,
        ignore_index: int = 255,
        score_threshold: float = 0.3,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device)
        check_score_threshold(score_threshold)
        if bins < 1:
            raise ValueError(f'Invalid bins: expected at least 1, got {bins}')
        if margin < 0:
            raise ValueError(f'Invalid margin: expected at least 0 pixels, got {margin}')
        self.bins = bins
        self.margin = margin
        self.ignore_index = ignore_index
        self.score_threshold = score_threshold
        self.table = pd.DataFrame()

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the predictions of N samples, as returned by ``predict``."""
        for sample in data_samples:
            if has_boxes(sample):
                self.results.append(self._boxes(sample))
                continue
            truth, mask = truth_of(sample, self.dataset_meta), mask_of(sample)
            regions = {ALL: truth != self.ignore_index}
            if mask is not None:
                near = near_foreground(mask, self.margin, self.ignore_index).flatten()
                regions[NEAR_FOREGROUND] = near & regions[ALL]
            counts = {}
            for name, own in predictions_by_name(sample, self.dataset_meta).items():
                binned = self._binned(own, truth, regions, name)
                counts.update({(region, name): one for region, one in binned.items()})
            self.results.append(counts)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the calibration errors from the counts of all samples, and set :attr:`table`."""
        edges = np.linspace(0, 1, self.bins + 1)
        tables, values = [], {}
        for (region, name), (number, confidence, right) in sum_by_name(results).items():
            error = np.abs(right - confidence).sum() / number.sum() if number.sum() else np.nan
            values[f'{name}/{_KEYS[region]}'] = float(error)
            number_or_nan = np.where(number > 0, number, np.nan)
            tables.append(
                pd.DataFrame(
                    dict(
                        region=region,
                        member=name,
                        low=edges[:-1],
                        high=edges[1:],
                        count=number.astype(int),
                        confidence=confidence / number_or_nan,
                        accuracy=right / number_or_nan,
                    )
                )
            )
        if not tables:
            return {}
        tables.sort(key=lambda table: table['region'][0] != ALL)
        self.table = pd.concat(tables, ignore_index=True)
        return values

    def _binned(
        self,
        predictions: Predictions,
        truth: torch.Tensor,
        regions: dict[str, torch.Tensor],
        name: str,
    ) -> dict[str, np.ndarray]:
        """Return number of predictions, sum of confidences and number of correct ones by region.

        Each array is (3, bins).
        """
        if len(truth) != len(predictions.labels):
            raise ValueError(
                f'expected predictions of the size of the truth, {len(truth)}, got '
                f'{len(predictions.labels)} of {name}'
            )
        labels = predictions.labels
        confidence = predictions.probabilities.gather(1, labels[:, None]).squeeze(1)
        right = (labels == truth).double()
        return {
            region: self._count(confidence[chosen], right[chosen])
            for region, chosen in regions.items()
        }

    def _boxes(self, sample: Any) -> dict[tuple[str, str], np.ndarray]:
        truth, counts = true_boxes_of(sample), {}
        for name, own in boxes_by_name(sample).items():
            boxes = MatchedBoxes.of_image(own.above(self.score_threshold), truth)
            confidence, right = (torch.from_numpy(x).double() for x in (boxes.scores, boxes.right))
            counts[BOXES, name] = self._count(confidence, right)
        return counts

    def _count(self, confidence: torch.Tensor, right: torch.Tensor) -> np.ndarray:
        """Return number, sum of confidences and number of correct predictions, (3, bins)."""
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64, device=right.device)
        # Bins are [low, high), as in torchmetrics; the last one includes 1.
        places = torch.bucketize(confidence, edges[1:-1], right=True)
        weights = (torch.ones_like(right), confidence, right)
        return np.stack([torch.bincount(places, one, self.bins).cpu().numpy() for one in weights])


def near_foreground(truth: torch.Tensor, margin: int, ignore_index: int = 255) -> torch.Tensor:
    """Return whether each pixel is at most ``margin`` rows and columns away from the foreground.

    Args:
        truth: Class indices, (H, W); 0 is the background.
        margin: Distance in pixels; 0 for the foreground itself.
        ignore_index: Label of pixels that are not foreground.

    Returns:
        (H, W), bool.
    """
    near = ((truth != 0) & (truth != ignore_index)).float()[None, None]
    for kernel, padding in (((2 * margin + 1, 1), (margin, 0)), ((1, 2 * margin + 1), (0, margin))):
        near = F.max_pool2d(near, kernel, stride=1, padding=padding)
    return near[0, 0] > 0
