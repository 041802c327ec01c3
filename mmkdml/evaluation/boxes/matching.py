"""Match predicted boxes with true ones, as the COCO benchmark does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmkdml.evaluation.boxes.samples import Boxes, TrueBoxes


@dataclass(frozen=True, eq=False)
class MatchedBoxes:
    """Predicted boxes of one or more images, matched with the true ones.

    Predictions that are matched with an ignored box are left out.

    Attributes:
        scores: (M,).
        labels: Predicted classes, (M,).
        right: Which predictions are matched with a true box, (M,), bool.
        true_labels: Classes of the true boxes without the ignored ones, (T,).
        found: Which of these are matched with a prediction, (T,), bool.
    """

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    true_labels: np.ndarray
    found: np.ndarray

    @classmethod
    def of_image(cls, boxes: Boxes, truth: TrueBoxes, iou: float = 0.5) -> MatchedBoxes:
        """Match the boxes of an image, see :func:`match_boxes`."""
        matches = match_boxes(*boxes, truth.boxes, truth.labels, iou, truth.ignored)
        ignored = np.append(truth.ignored, False)[matches]  # -1 is the last one
        return cls(
            boxes.scores[~ignored],
            boxes.labels[~ignored],
            matches[~ignored] >= 0,
            truth.labels[~truth.ignored],
            np.isin(np.flatnonzero(~truth.ignored), matches),
        )

    @classmethod
    def join(cls, parts: Sequence[MatchedBoxes]) -> MatchedBoxes:
        """Join the boxes of several images, at least one."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def average_precision(self) -> float:
        """Compute the mean average precision of the classes with true boxes, or ``nan``.

        Equals the AP of COCO at the IoU of the matches, in [0, 1].
        """
        values = [
            average_precision(
                self.scores[self.labels == label],
                self.right[self.labels == label],
                (self.true_labels == label).sum(),
            )
            for label in np.unique(self.true_labels)
        ]
        return float(np.mean(values)) if values else float('nan')


def match_boxes(
    boxes: Any,
    scores: Any,
    labels: Any,
    true_boxes: Any,
    true_labels: Any,
    iou: float | Sequence[float] = 0.5,
    ignored: Any = None,
) -> np.ndarray:
    """Match the predicted boxes of an image with its true boxes, class by class.

    Equals pycocotools' ``COCOeval`` without limits of area and number. Predictions choose in order
    of falling score: each takes the true box of its class with the highest IoU among those that
    are not yet taken, if that is at least ``iou``. Equal scores choose in the given order; of equal
    IoUs the last true box is taken.

    Ignored true boxes, such as COCO's crowds, are second choice. They can be matched by any number
    of predictions, and the overlap with them is relative to the area of the prediction. A
    prediction that is matched with one is neither right nor wrong.

    Args:
        boxes: Predicted boxes, (M, 4), x1, y1, x2, y2; arrays or CPU tensors, in any unit.
        scores: Their scores, (M,).
        labels: Their classes, (M,).
        true_boxes: (T, 4), in the same unit.
        true_labels: (T,).
        iou: Least IoU of a match, in (0, 1], or R of them.
        ignored: Which true boxes are ignored, (T,), bool. Default: none.

    Returns:
        Index of the matched true box of each prediction, or -1, (M,), int; (R, M) if ``iou`` is a
        sequence.

    Raises:
        ValueError: If a shape or an IoU is invalid.
    """
    boxes, true_boxes = _boxes('boxes', boxes), _boxes('true_boxes', true_boxes)
    scores = _of_each('scores', scores, boxes)
    labels = _of_each('labels', labels, boxes)
    true_labels = _of_each('true_labels', true_labels, true_boxes)
    ignored = np.zeros(len(true_boxes), bool) if ignored is None else ignored
    ignored = _of_each('ignored', ignored, true_boxes).astype(bool)
    ious = np.atleast_1d(np.asarray(iou, dtype=float))
    if not ((ious > 0) & (ious <= 1)).all():
        raise ValueError(f'Invalid iou: expected values in (0, 1], got {iou}')

    overlaps = box_overlaps(boxes, true_boxes, ignored)
    overlaps[labels[:, None] != true_labels] = 0
    order = np.argsort(-scores, kind='stable')
    matches = np.stack([_greedy(overlaps[order], ignored, one) for one in ious])
    matches[:, order] = matches.copy()
    return matches if np.ndim(iou) else matches[0]


def box_overlaps(boxes: np.ndarray, true_boxes: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Compute the IoU of each prediction with each true box, in float64.

    The overlap with an ignored box is divided by the area of the prediction.

    Args:
        boxes: (M, 4), x1, y1, x2, y2.
        true_boxes: (T, 4).
        ignored: (T,), bool.

    Returns:
        (M, T), in [0, 1].
    """
    a, b = (np.asarray(side, dtype=float) for side in (boxes, true_boxes))
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = (high - low).clip(0).prod(2)
    area, true_area = ((side[:, 2:] - side[:, :2]).prod(1) for side in (a, b))
    total = area[:, None] + np.where(ignored, 0, true_area - shared)
    return np.divide(shared, total, out=np.zeros_like(shared), where=shared > 0)


def average_precision(scores: np.ndarray, right: np.ndarray, number: int) -> float:
    """Compute the average precision of a class as COCO does.

    It is the mean of the precision at the recalls 0, 0.01, ..., 1, where the precision at a recall
    is the highest one at this or a higher recall, and 0 if the recall is not reached.

    Args:
        scores: Scores of the predictions, (M,).
        right: Which of them are right, (M,), bool.
        number: Number of true boxes, at least 1.

    Returns:
        A value in [0, 1].
    """
    hits = np.cumsum(right[np.argsort(-scores, kind='stable')])
    precision = hits / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / number, np.linspace(0, 1, 101))
    return float(np.append(highest, 0)[places].mean())


def _greedy(overlaps: np.ndarray, ignored: np.ndarray, iou: float) -> np.ndarray:
    """Return the match of each prediction, (M,), sorted by falling score."""
    matches = np.full(len(overlaps), -1)
    iou = min(iou, 1 - 1e-10)  # as in pycocotools, because an IoU of 1 may be rounded
    free = np.ones(overlaps.shape[1], bool)
    for place in np.flatnonzero((overlaps >= iou).any(1)):
        for choice in (free & ~ignored, ignored):
            candidates = np.flatnonzero(choice & (overlaps[place] >= iou))
            if len(candidates):
                # argmax returns the first of equal values.
                best = candidates[::-1][overlaps[place, candidates[::-1]].argmax()]
                matches[place], free[best] = best, False
                break
    return matches


def _boxes(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f'Invalid {name}: expected shape (M, 4), got {array.shape}')
    return array


def _of_each(name: str, value: Any, boxes: np.ndarray) -> np.ndarray:
    array = np.asarray(value)
    if array.shape != (len(boxes),):
        raise ValueError(
            f'Invalid {name}: expected one value per box, ({len(boxes)},), got {array.shape}'
        )
    return array
