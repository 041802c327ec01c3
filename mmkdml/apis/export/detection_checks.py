"""Agreement of an exported detector with mmdet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from mmkdml.apis.export.agreement import TOLERANCE, BoxAgreement
from mmkdml.apis.export.source import ExportSource
from mmkdml.models.box_ensembles import MAX_PER_IMAGE

#: Largest difference of an edge in pixels.
BOX_TOLERANCE = 0.05
#: Share of boxes without a match, because rounding decides overlaps at the threshold of NMS.
SHARE_OF_BOXES = 0.01
#: Boxes of all priors are compared if their score is among this many of an image.
_HIGHEST = 1000

Outputs = tuple[NDArray[Any], ...]


def as_arrays(instances: Sequence[InstanceData]) -> Outputs:
    """Stack boxes (N, M, 4), scores (N, M) and labels (N, M) of N images, filled up with -1."""
    number = max(len(one) for one in instances)
    boxes, scores, labels = (
        torch.stack(
            [
                torch.cat(
                    [one[key], one[key].new_full((number - len(one), *one[key].shape[1:]), -1)]
                )
                for one in instances
            ]
        ).numpy()
        for key in ('bboxes', 'scores', 'labels')
    )
    return boxes, scores, labels


def box_limit(head: Any) -> int:
    """Return the largest number of boxes of an image, which YOLOX does not limit."""
    return int(head.test_cfg.get('max_per_img', MAX_PER_IMAGE))


def predicted_boxes(member: Any, samples: Sequence[Any]) -> list[InstanceData]:
    """Return the predictions of mmdet; of detectors of one stage the first :func:`box_limit`."""
    head = getattr(member, 'bbox_head', None)
    number = None if head is None else box_limit(head)
    return [sample.pred_instances[:number] for sample in samples]


def boxes_of_priors(member: Any, inputs: Tensor, data_samples: Sequence[Any]) -> list[InstanceData]:
    """Return the boxes that mmdet decodes for each prior and class, without selection."""
    head = member.bbox_head
    settings = dict(score_thr=-1.0, nms_pre=10**9, min_bbox_size=-1)
    return head.predict_by_feat(
        *head(member.extract_feat(inputs)),
        batch_img_metas=[sample.metainfo for sample in data_samples],
        cfg=type(head.test_cfg)(head.test_cfg, **settings),
        with_nms=False,
    )


class BoxComparison:
    """Match the boxes of an export with those of mmdet, and collect the differences.

    A match has the same class, a score within 1e-4 and edges within 0.05 pixels. The order of boxes
    does not matter, because rounding decides it for equal scores.
    """

    def __init__(self) -> None:
        self.images = self.boxes = self.unmatched = 0
        self.score_difference = self.box_difference = 0.0

    def add(self, found: Outputs, expected: Outputs) -> None:
        """Compare the outputs for a batch."""
        self.images += len(found[0])
        for index in range(len(found[0])):
            one, other = _rows(found, index), _rows(expected, index)
            self._match(one, other)
            self._match(other, one)

    def _match(self, rows: NDArray[Any], others: NDArray[Any]) -> None:
        finite = np.isfinite(rows).all(1)
        rows, others = rows[finite], others[np.isfinite(others).all(1)]
        highest = rows[np.argsort(-rows[:, 1], kind='stable')[:_HIGHEST]]
        self.boxes += len(highest) + int((~finite).sum())
        self.unmatched += int((~finite).sum())
        if not len(others) or not len(highest):
            self.unmatched += len(highest)
            return
        # In units of the tolerances; other classes are far away.
        scale = np.array([1e9, 1 / TOLERANCE, *[1 / BOX_TOLERANCE] * 4])
        distances, places = cKDTree(others * scale).query(highest * scale, p=np.inf)
        matched = distances <= 1
        self.unmatched += int((~matched).sum())
        difference = np.abs(highest - others[places])[matched].max(0, initial=0)
        self.score_difference = max(self.score_difference, float(difference[1]))
        self.box_difference = max(self.box_difference, float(difference[2:].max()))

    def result(self, name: str) -> BoxAgreement:
        """Return the differences.

        Raises:
            ValueError: If nothing was compared, or more than one box in 100 has no match.
        """
        if not self.boxes:
            raise ValueError(
                f'{name}: expected boxes to check, got none above score_thr on {self.images} '
                'images. Pass other images, or lower score_thr of test_cfg'
            )
        share = self.unmatched / self.boxes
        if share > SHARE_OF_BOXES:
            raise ValueError(
                f'{name} differs from PyTorch on {self.images} images: {share:.2%} of '
                f'{self.boxes} boxes have no match of the same class, score (within '
                f'{TOLERANCE:g}) and edges (within {BOX_TOLERANCE} pixels). No files were written'
            )
        return BoxAgreement(
            self.images, self.score_difference, share, self.boxes, self.box_difference
        )


def selected(outputs: Outputs, index: int, source: ExportSource) -> InstanceData:
    """Return the boxes of an image, after mmdet's selection if the graph does not select."""
    rows = torch.from_numpy(_rows(outputs, index))
    (member,) = source.members.values()
    head: Any = getattr(member, 'bbox_head', None)
    if len(outputs) == 2:
        rows = rows[rows[:, 1] > head.test_cfg.get('score_thr', 0)]
    found = InstanceData(labels=rows[:, 0].long(), scores=rows[:, 1], bboxes=rows[:, 2:])
    if len(outputs) == 2:
        found = head._bbox_post_process(found, head.test_cfg, rescale=False, img_meta={})
    return found


def set_boxes(sample: Any, found: InstanceData) -> None:
    """Set the boxes of a network's input in a sample, at the size of the original image."""
    found.bboxes = found.bboxes / found.bboxes.new_tensor(sample.scale_factor).repeat(2)
    sample.pred_instances = found


def _rows(outputs: Outputs, index: int) -> NDArray[Any]:
    """Return label, score and box of each box of an image, (M, 6); those of K classes by prior."""
    boxes, scores, *rest = (part[index] for part in outputs)
    if rest:
        (labels,) = rest
    else:
        classes = scores.shape[1]
        labels = np.tile(np.arange(classes), len(boxes))
        boxes, scores = boxes.repeat(classes, 0), scores.ravel()
    kept = (labels >= 0) & ~(scores <= 0)  # YOLOX scores only the best class; NaN is kept
    return np.column_stack([labels, scores, boxes])[kept].astype(np.float32)
