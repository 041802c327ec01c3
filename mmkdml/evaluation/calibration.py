"""Calibration error of members and ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.batches import (
    Batch,
    batches_of,
    binned,
    equal_to,
    first_cells,
    reliability_counts,
)
from mmkdml.evaluation.boxes.matching import MatchedBoxes
from mmkdml.evaluation.boxes.samples import (
    boxes_by_name,
    check_score_threshold,
    has_boxes,
    true_boxes_of,
)
from mmkdml.evaluation.predictions import sum_by_name
from mmkdml.registry import METRICS

#: Values of the column ``region``.
ALL, NEAR_FOREGROUND, BOXES = 'all', 'near foreground', 'boxes'
_FAR, _NEAR, _IGNORED = range(3)  # regions of reliability_counts
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
        if any(map(has_boxes, data_samples)):
            self.results.extend(map(self._boxes, data_samples))
            return
        for batch in batches_of(data_samples, self.dataset_meta):
            self.results.extend(self._counts(batch))

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

    def _counts(self, batch: Batch) -> list[dict[tuple[str, str], np.ndarray]]:
        """Return the counts of :meth:`compute_metrics` by region and member for each image."""
        truth = batch.truth()
        regions = equal_to(truth, self.ignore_index).byte().mul_(_IGNORED)
        if batch.size is not None:
            masks = truth.reshape(-1, *batch.size)
            near = near_foreground(masks, self.margin, self.ignore_index).flatten(1)
            regions.add_(near & (regions == 0), alpha=_NEAR)
        counts: list[dict[tuple[str, str], np.ndarray]] = [{} for _ in range(len(batch))]
        by_member = reliability_counts(
            [batch.labels(name) for name in batch.names],
            [batch.probabilities(name) for name in batch.names],
            truth,
            regions,
            self.bins,
        )
        for name, found in zip(batch.names, by_member, strict=True):
            for own, one in zip(counts, found, strict=True):
                own[ALL, name] = one[_FAR] + one[_NEAR]
                if batch.size is not None:
                    own[NEAR_FOREGROUND, name] = one[_NEAR]
        return counts

    def _boxes(self, sample: Any) -> dict[tuple[str, str], np.ndarray]:
        truth, counts = true_boxes_of(sample), {}
        for name, own in boxes_by_name(sample).items():
            boxes = MatchedBoxes.of_image(own.above(self.score_threshold), truth)
            scores = torch.from_numpy(boxes.scores)[None].double()
            right = torch.from_numpy(boxes.right)[None]
            first = first_cells(torch.zeros_like(right, dtype=torch.uint8), self.bins)
            counts[BOXES, name] = binned(scores, right, first, self.bins)[0, 0].numpy()
        return counts


def near_foreground(truth: torch.Tensor, margin: int, ignore_index: int = 255) -> torch.Tensor:
    """Return whether each pixel is at most ``margin`` rows and columns away from the foreground.

    Args:
        truth: Class indices, (..., H, W); 0 is the background.
        margin: Distance in pixels; 0 for the foreground itself.
        ignore_index: Label of pixels that are not foreground.

    Returns:
        (..., H, W), bool.
    """
    near = (truth != 0) & ~equal_to(truth, ignore_index)
    for axis in (-2, -1):
        reach = 0
        while reach < margin:
            # Larger shifts would leave a gap next to a pixel at the border of the image.
            step = min(reach + 1, margin - reach)
            wider, rest = near.clone(), near.shape[axis] - step
            if rest > 0:
                wider.narrow(axis, step, rest).logical_or_(near.narrow(axis, 0, rest))
                wider.narrow(axis, 0, rest).logical_or_(near.narrow(axis, step, rest))
            near, reach = wider, reach + step
    return near
