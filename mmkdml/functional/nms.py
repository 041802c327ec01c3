"""Overlap of boxes, and non-maximum suppression without compiled operators."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional.vectors import full_precision


def check_boxes(name: str, boxes: Tensor) -> None:
    """Raise unless boxes are floating point, (N, 4)."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f'Invalid {name}: expected floating-point boxes (N, 4) as (x1, y1, x2, y2), got '
            f'{tuple(boxes.shape)} of {boxes.dtype}'
        )


def pairwise_iou(a: Tensor, b: Tensor, offset: int = 0) -> Tensor:
    """Compute the intersection over union of all pairs of boxes.

    Args:
        a: Boxes (x1, y1, x2, y2), (N, 4), in any unit.
        b: Boxes in the same unit, (M, 4).
        offset: Added to widths and heights: 1 if x2 and y2 are the last pixels of a box, as in
            early detectors, 0 if they are its borders.

    Returns:
        (N, M), in [0, 1]; 0 for pairs without area.

    Raises:
        ValueError: If ``a`` or ``b`` has another shape or contains integers.
    """
    check_boxes('a', a)
    check_boxes('b', b)
    a, b = full_precision(a), full_precision(b)
    area_a, area_b = ((side[:, 2:] - side[:, :2] + offset).prod(1) for side in (a, b))
    top_left = torch.maximum(a[:, None, :2], b[:, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[:, 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(2)
    union = area_a[:, None] + area_b - intersection
    return torch.where(union > 0, intersection / union.where(union > 0, 1), 0)


def non_maximum_suppression(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0
) -> Tensor:
    """Select boxes by falling score; skip those that overlap a selected one.

    The same greedy selection as ``torchvision.ops.nms``, in ties too, with one row of IoUs for each
    selected box: time and memory O(selected * N) and O(N) instead of O(N * N).

    Args:
        boxes: (x1, y1, x2, y2), (N, 4), in any unit.
        scores: (N,).
        iou_threshold: A box is skipped if its IoU with a selected one is above this.
        offset: See :func:`pairwise_iou`.

    Returns:
        Indices of the selected boxes by falling score, (K,), of type int64.

    Raises:
        ValueError: If shapes or types are wrong.
    """
    check_boxes('boxes', boxes)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(
            f'Invalid scores: expected one score per box, ({len(boxes)},), got '
            f'{tuple(scores.shape)}'
        )
    boxes = full_precision(boxes).detach()
    rest = scores.detach().argsort(descending=True, stable=True)
    selected = []
    while len(rest):
        first, rest = rest[:1], rest[1:]
        selected.append(first)
        # In float64, because float32 would round the threshold.
        overlap = pairwise_iou(boxes[first], boxes[rest], offset)[0].double()
        rest = rest[~(overlap > iou_threshold)]
    return torch.cat(selected) if selected else rest
