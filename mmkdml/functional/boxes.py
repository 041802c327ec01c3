"""Boxes: overlap of pairs, and fusion of the boxes of several detectors.

Boxes are (x1, y1, x2, y2): left, top, right and bottom border, in any unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkdml.functional.checks import check_choice, check_fraction, check_positive
from mmkdml.functional.nms import check_boxes
from mmkdml.functional.vectors import full_precision

SOFT_NMS_METHODS = ('linear', 'gaussian')


class Objects(NamedTuple):
    """True boxes of an image.

    Attributes:
        boxes: (M, 4), x1, y1, x2, y2 as fractions of the width and height of the batch's (padded)
            images, in [0, 1].
        labels: Class of each box, (M,), dtype long.
    """

    boxes: Tensor
    labels: Tensor


def aligned_giou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the generalized IoU of each pair of boxes (Rezatofighi et al. 2019, algorithm 1).

    The corners of each box are ordered first, so a box of negative width is valid. Untrained
    detectors predict many of them.

    Args:
        a: Boxes (..., 4).
        b: Boxes in the same unit and of the same shape.

    Returns:
        (...), in [-1, 1]: 1 for equal boxes, below 0 for boxes far apart. Areas up to 1e-6 square
        units count as zero: they give no gradient, and the ratio that they divide is 0.

    Raises:
        ValueError: If the boxes are not floating point or differ in shape.
    """
    if a.shape != b.shape or a.shape[-1:] != (4,) or not a.dtype.is_floating_point:
        raise ValueError(
            'Invalid boxes: expected two floating-point tensors (..., 4) of the same shape, got '
            f'{tuple(a.shape)} of {a.dtype} and {tuple(b.shape)} of {b.dtype}'
        )
    low_a, high_a = _ordered_corners(full_precision(a))
    low_b, high_b = _ordered_corners(full_precision(b))
    common = torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)
    intersection = common.clamp(min=0).prod(-1)
    union = (high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - intersection
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    return intersection / _infinite_if_zero(union) - (hull - union) / _infinite_if_zero(hull)


def _ordered_corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    one, other = boxes[..., :2], boxes[..., 2:]
    return torch.minimum(one, other), torch.maximum(one, other)


def _infinite_if_zero(areas: Tensor) -> Tensor:
    return areas.where(areas > 1e-6, torch.inf)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: str = 'gaussian',
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Select boxes by falling score, and lower the scores of those that overlap a selected one.

    Soft-NMS of Bodla et al. 2017 (figure 2, equations 2 and 3) with their default settings.

    Args:
        boxes: (N, 4), of one class.
        scores: (N,), in [0, 1].
        method: ``'linear'`` multiplies a score by 1 - IoU if the IoU is at least the threshold,
            ``'gaussian'`` by exp(-IoU² / sigma).
        iou_threshold: For ``'linear'``, in [0, 1].
        sigma: For ``'gaussian'``, above 0.
        min_score: Boxes are dropped as soon as their score is below this.

    Returns:
        Indices of the selected boxes, (M,), and their scores, (M,), both by falling score.

    Raises:
        ValueError: If the method is unknown, a setting is out of range, or shapes or types are
            wrong.
    """
    check_choice('method', method, SOFT_NMS_METHODS)
    check_fraction('iou_threshold', iou_threshold)
    check_positive('sigma', sigma)
    check_boxes('boxes', boxes)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(
            f'Invalid scores: expected one score per box, ({len(boxes)},), got '
            f'{tuple(scores.shape)}'
        )
    corners, values = _as_numpy(boxes), _as_numpy(scores)
    areas = _areas(corners)
    selected = []
    rest = np.flatnonzero(values >= min_score)
    while len(rest):
        best = rest[values[rest].argmax()]
        selected.append(best)
        rest = rest[rest != best]
        overlaps = _overlaps(corners[best], areas[best], corners[rest], areas[rest])
        if method == 'linear':
            values[rest] *= np.where(overlaps >= iou_threshold, 1 - overlaps, 1)
        else:
            values[rest] *= np.exp(-(overlaps**2) / sigma)
        rest = rest[values[rest] >= min_score]
    chosen = np.array(selected, dtype=np.int64)
    return torch.from_numpy(chosen).to(boxes.device), torch.from_numpy(values[chosen]).to(scores)


def weighted_boxes_fusion(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    labels: Sequence[Tensor],
    iou_threshold: float = 0.55,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fuse the boxes of S detectors for one image (Solovyev et al. 2021, section 3).

    By falling score, a box joins the cluster of its class whose fused box overlaps it most, or
    starts one if no IoU is above the threshold. The fused box is the mean of a cluster's boxes,
    weighted by score. Its score is their mean times min(n, S) / S for n boxes, so that it is low if
    detectors disagree. All detectors have the same weight, as by default in ``ensemble-boxes``,
    which also orders corners and drops boxes without area.

    Args:
        boxes: (M_s, 4) of each detector.
        scores: (M_s,) of each, at least 0.
        labels: (M_s,) of each, class indices.
        iou_threshold: In [0, 1].

    Returns:
        Boxes (M, 4), scores (M,) and labels (M,) by falling score, the same for each order of the
        detectors.

    Raises:
        ValueError: If there is no detector, the threshold is out of range, or shapes or types are
            wrong.
    """
    check_fraction('iou_threshold', iou_threshold)
    found = joined(boxes, scores, labels)
    low, high = _ordered_corners(found[0])
    corners, values, classes = map(_as_numpy, (torch.cat([low, high], 1), *found[1:]))
    areas = _areas(corners)
    # The coordinates break ties of scores, so that the order of the detectors does not matter.
    order = np.lexsort((*corners.T, -values, classes))
    order = order[areas[order] > 0]

    fused, fused_areas, fused_classes = corners[order], areas[order], classes[order]
    counts, weights = np.zeros((2, len(order)))
    start = end = 0  # clusters of the current class
    for index in order:
        if end and classes[index] != fused_classes[end - 1]:
            start = end
        overlaps = _overlaps(corners[index], areas[index], fused[start:end], fused_areas[start:end])
        place = start + int(overlaps.argmax()) if end > start else end
        if end == start or overlaps[place - start] <= iou_threshold:
            place, end = end, end + 1
            fused[place], fused_classes[place] = corners[index], classes[index]
        counts[place] += 1
        weights[place] += values[index]
        if weights[place] > 0:  # The running mean; exactly the box if it is the first one.
            share = values[index] / weights[place]
            fused[place] += share * (corners[index] - fused[place])
        fused_areas[place] = _areas(fused[place])

    agreed = weights[:end] / counts[:end] * np.minimum(counts[:end], len(boxes)) / len(boxes)
    falling = np.argsort(-agreed, kind='stable')
    return (
        torch.from_numpy(fused[falling]).to(found[0]),
        torch.from_numpy(agreed[falling]).to(found[1]),
        torch.from_numpy(fused_classes[falling]).to(found[2]),
    )


def joined(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Concatenate the boxes, scores and labels of several detectors.

    Raises:
        ValueError: If there is no detector, or shapes or types are wrong.
    """
    shapes = [[tuple(one.shape) for one in part] for part in (boxes, scores, labels)]
    expected = [(len(one),) for one in boxes]
    if not expected or shapes[1] != expected or shapes[2] != expected:
        raise ValueError(
            'Invalid boxes to combine: expected boxes (M, 4), scores (M,) and labels (M,) of at '
            f'least one detector, got {shapes[0]}, {shapes[1]} and {shapes[2]}'
        )
    for one in boxes:
        check_boxes('boxes', one)
    return torch.cat(list(boxes)), torch.cat(list(scores)), torch.cat(list(labels))


def _as_numpy(tensor: Tensor) -> NDArray[np.float64]:
    """Copy to the CPU in float64, where loops of small steps are faster than tensors."""
    return tensor.detach().cpu().to(torch.float64, copy=True).numpy()


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _overlaps(
    box: NDArray[np.float64], area: float, others: NDArray[np.float64], areas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the IoU of a box (4,) with others (M, 4), (M,); 0 without area."""
    common = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    np.maximum(common, 0, out=common)
    intersection = common[:, 0] * common[:, 1]
    union = area + areas - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
