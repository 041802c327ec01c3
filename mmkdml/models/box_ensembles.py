"""Ensembles of students' boxes.

Each function takes the boxes of one image, found by S students: boxes (M_s, 4) as x1, y1, x2, y2 in
pixels, scores (M_s,) and labels (M_s,) of each student. It returns boxes (M, 4), scores (M,) and
labels (M,) by falling score. Boxes of different classes are never combined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmkdml.functional.boxes import joined, soft_nms, weighted_boxes_fusion
from mmkdml.functional.checks import check_at_least, check_fraction
from mmkdml.functional.nms import non_maximum_suppression

Detections = tuple[Tensor, Tensor, Tensor]
BoxEnsemble = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Detections]

#: Most boxes per image, as in mmdet's ``test_cfg``; those of the highest scores are kept.
MAX_PER_IMAGE = 100
#: Above the IoUs of the boxes that mmdet's dense heads leave, 0.5 to 0.65.
STUDENT_IOU = 0.7


def wbf_ensemble(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    labels: Sequence[Tensor],
    iou_threshold: float = STUDENT_IOU,
    max_per_img: int = MAX_PER_IMAGE,
) -> Detections:
    """Fuse overlapping boxes; see :func:`~mmkdml.functional.boxes.weighted_boxes_fusion`.

    The default threshold differs from the paper's 0.55, because a cluster should not contain two
    boxes of one student: their non-maximum suppression leaves boxes with IoUs up to 0.65.
    """
    return _first(weighted_boxes_fusion(boxes, scores, labels, iou_threshold), max_per_img)


def nms_ensemble(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    labels: Sequence[Tensor],
    iou_threshold: float = 0.5,
    max_per_img: int = MAX_PER_IMAGE,
) -> Detections:
    """Apply non-maximum suppression to the boxes of all students together."""
    check_fraction('iou_threshold', iou_threshold)

    def select(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        kept = non_maximum_suppression(boxes, scores, iou_threshold)
        return kept, scores[kept]

    return _by_class(select, joined(boxes, scores, labels), max_per_img)


def soft_nms_ensemble(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    labels: Sequence[Tensor],
    max_per_img: int = MAX_PER_IMAGE,
) -> Detections:
    """Apply Gaussian soft-NMS (:func:`~mmkdml.functional.boxes.soft_nms`) to the boxes of all."""
    return _by_class(soft_nms, joined(boxes, scores, labels), max_per_img)


def _by_class(
    select: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], found: Detections, max_per_img: int
) -> Detections:
    """Select boxes of each class by a function that returns indices and their new scores."""
    boxes, scores, labels = found
    # On the CPU, because a GPU would wait for each small step of the selections.
    cpu_boxes, cpu_scores, cpu_labels = (part.cpu() for part in found)
    chosen, updated = [torch.zeros(0, dtype=torch.long)], [cpu_scores[:0]]
    for label in cpu_labels.unique():
        places = (cpu_labels == label).nonzero()[:, 0]
        selected, changed = select(cpu_boxes[places], cpu_scores[places])
        chosen.append(places[selected])
        updated.append(changed)
    values, order = torch.cat(updated).sort(descending=True, stable=True)
    kept = torch.cat(chosen)[order].to(labels.device)
    return _first((boxes[kept], values.to(scores), labels[kept]), max_per_img)


def _first(found: Detections, number: int) -> Detections:
    check_at_least('max_per_img', number, 1)
    boxes, scores, labels = found
    return boxes[:number], scores[:number], labels[:number]


BOX_ENSEMBLES: dict[str, BoxEnsemble] = {
    'wbf': wbf_ensemble,
    'nms': nms_ensemble,
    'soft_nms': soft_nms_ensemble,
}
