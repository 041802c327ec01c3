"""Predicted and true boxes in the samples of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmkdml.evaluation.member_metrics import member_views
from mmkdml.names import PLAIN


class Boxes(NamedTuple):
    """Boxes that a detector predicts for one image.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the original image, (M, 4).
        scores: In [0, 1], (M,).
        labels: Classes, (M,).
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def above(self, threshold: float) -> Boxes:
        """Return the boxes whose score is at least the threshold."""
        kept = self.scores >= threshold
        return Boxes(*(one[kept] for one in self))


class TrueBoxes(NamedTuple):
    """True boxes of one image.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the original image, (T, 4).
        labels: Classes, (T,).
        ignored: Which boxes, such as COCO's crowds, are neither right nor wrong, (T,), bool.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


def has_boxes(sample: Any) -> bool:
    """Return whether a sample of ``predict`` is that of a detector."""
    return 'pred_instances' in sample


def boxes_by_name(sample: Any) -> dict[str, Boxes]:
    """Return the boxes of each member and the ensemble, or of ``model`` for a plain detector.

    Raises:
        ValueError: If a member has no boxes.
    """
    return {name: boxes_of(view, name=name) for name, view in member_views(sample).items()}


def boxes_of(view: Mapping[str, Any], classes: int | None = None, name: str = PLAIN) -> Boxes:
    """Return the boxes in the view of a member.

    Args:
        view: See :func:`~mmkdml.evaluation.member_metrics.member_views`.
        classes: Number of classes, to check the labels.
        name: Name of the member, for error messages.

    Raises:
        ValueError: If there are none, or a label is not a class.
    """
    if not has_boxes(view):
        raise ValueError(f'expected pred_instances of each member, got {sorted(view)} for {name}')
    found = view['pred_instances']
    labels = _labels('pred_instances', found, classes)
    return Boxes(_array(found['bboxes']).reshape(-1, 4), _array(found['scores']), labels)


def true_boxes_of(sample: Any, classes: int | None = None) -> TrueBoxes:
    """Return the true boxes of a sample, ``gt_instances`` and ``ignored_instances``.

    Args:
        sample: Sample of ``predict``, or the view of a member.
        classes: Number of classes, to check the labels.

    Raises:
        ValueError: If a field is missing, a label is not a class, or a box is outside the image.
    """
    view = next(iter(member_views(sample).values()))
    fields = ('gt_instances', 'ignored_instances')
    missing = [key for key in fields if key not in view]
    if missing:
        raise ValueError(
            f'expected gt_instances and ignored_instances in each sample, got {sorted(view)} '
            f'without {" and ".join(missing)}. Add LoadAnnotations(with_bbox=True) before '
            'PackDetInputs in the test pipeline'
        )
    parts = [view[key] for key in fields]
    boxes = np.concatenate([_array(one['bboxes']).reshape(-1, 4) for one in parts])
    labels = [_labels(key, one, classes) for key, one in zip(fields, parts, strict=True)]
    if 'ori_shape' in view:
        height, width = view['ori_shape'][:2]
        outside = ((boxes[:, :2] >= (width, height)) | (boxes[:, 2:] <= 0)).any(1)
        if outside.any():
            raise ValueError(
                f'Invalid true box {boxes[outside][0].tolist()}: expected boxes in pixels of the '
                f'original image, got one outside of its {width} x {height} pixels '
                f'({view.get("img_path", "a sample without img_path")}). Put LoadAnnotations after '
                'Resize in the test pipeline'
            )
    ignored = np.repeat([False, True], [len(one) for one in labels])
    return TrueBoxes(boxes, np.concatenate(labels), ignored)


def check_score_threshold(value: float) -> None:
    """Raise ValueError if the lowest score of boxes that count is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f'Invalid score_threshold: expected a value in [0, 1], got {value}')


def refuse_boxes(view: Mapping[str, Any]) -> None:
    """Raise ValueError for the sample of a detector."""
    if has_boxes(view):
        raise ValueError(
            'expected predictions of classification or segmentation, got boxes (pred_instances). '
            'For a detector use BoxAP, Fidelity, Diversity, Calibration and CaseTable'
        )


def _array(values: Any) -> np.ndarray:
    # mmdet's boxes of a type of their own contain a tensor.
    return getattr(values, 'tensor', values).detach().cpu().numpy()


def _labels(field: str, instances: Mapping[str, Any], classes: int | None) -> np.ndarray:
    labels = _array(instances['labels'])
    wrong = sorted({int(label) for label in labels if not 0 <= label < (classes or np.inf)})
    if wrong:
        raise ValueError(
            f'Invalid labels in {field}: expected 0 to {classes and classes - 1}, the classes of '
            f'the data set, got {wrong}'
        )
    return labels
