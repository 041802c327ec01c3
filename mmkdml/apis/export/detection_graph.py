"""Detectors as one graph: the boxes of all priors, or those that are left after suppression."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import YOLOXHead
from torch import Tensor, nn

from mmkdml.apis.export.detection_checks import box_limit
from mmkdml.apis.export.graph import ExportedNetwork
from mmkdml.apis.export.source import ExportSource
from mmkdml.commands import tool_command
from mmkdml.models.tasks.dense_predictions import (
    dense_predictions,
    flat_level,
    has_dense_predictions,
    inherits,
)

# Methods of the heads that select boxes, which the graph repeats.
_SELECTION = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
_NMS_OPTIONS = {'type', 'iou_threshold', 'split_thr'}


@torch.library.custom_op(
    'mmkdml::suppress',
    mutates_args=(),
    schema='(Tensor boxes, Tensor scores, float iou_threshold, int number) -> Tensor',
)
def _suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, number: int) -> Tensor:
    """Set the scores (N, K, P) of suppressed boxes (N, P, 4) to 0, separately for each class.

    At least the ``number`` highest scores of each class are right; ONNX computes no others.
    """
    kept = torch.zeros_like(scores)
    for image, place in (scores > 0).any(2).nonzero().tolist():
        own = scores[image, place].nonzero()[:, 0]
        values = scores[image, place, own]
        left = own[torch.ops.torchvision.nms(boxes[image, own], values, iou_threshold)]
        kept[image, place, left] = scores[image, place, left]
    return kept


@_suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, number: int) -> Tensor:
    return torch.empty_like(scores)


def _onnx_suppress(boxes: Any, scores: Any, iou_threshold: float, number: int) -> Any:
    """Compute the same with ONNX operators."""
    op: Any = importlib.import_module('onnxscript').opset18
    index = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[number]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),
    )
    return op.ScatterND(
        op.Mul(scores, op.Constant(value_float=0.0)), index, op.GatherND(scores, index)
    )


ONNX_OPERATORS = {torch.ops.mmkdml.suppress.default: _onnx_suppress}


class ExportedDetector(ExportedNetwork):
    """Preprocessing, a detector of one stage, decoded boxes and, with ``nms``, their selection.

    It maps images (N, C, H, W), see :class:`~mmkdml.apis.export.graph.ExportedNetwork`, which it
    pads, to boxes (x1, y1, x2, y2) in pixels of the images and scores in [0, 1]. Boxes are clipped
    to the image if the head does so.

    Without ``nms`` boxes are those of all P priors, (N, P, 4), the finest level first, and scores
    (N, P, K) are the class probabilities times the head's factor: centerness of ATSS and FCOS, or
    objectness of YOLOX, which scores only the best class, the others 0. With it, they are the
    boxes (N, M, 4) with the M highest scores (N, M) after the head's non-maximum suppression, and
    their classes (N, M), int64. Rows are sorted by score, and filled up with -1.

    Raises:
        ValueError: If the source is an ensemble, or the head or its suppression is not supported.
    """

    onnx_operators = ONNX_OPERATORS

    def __init__(self, source: ExportSource) -> None:
        if len(source.members) != 1:
            raise ValueError(
                'Ensembles of detectors are not supported in a graph: which boxes are combined '
                f'depends on the image. Export each student (--what {next(iter(source.members))}), '
                f'or publish the ensemble for use with mmkdml ({tool_command("publish")})'
            )
        ((name, member),) = source.members.items()
        head: Any = getattr(member, 'bbox_head', None)
        if not (has_dense_predictions(head) and inherits(head, *_SELECTION)):
            raise ValueError(
                f'{name}: {type(member).__name__} with {type(head).__name__} is not supported in '
                'an exported graph: expected a head of ATSS, FCOS, GFL, RetinaNet, RTMDet or '
                'YOLOX with sigmoids. Choose --format checkpoint'
            )
        super().__init__(source)
        self.size = source.inspection.input_size
        preprocessor = source.preprocessor_of(name)
        self.padding = [-side % preprocessor.pad_size_divisor for side in self.size]
        self.pad_value = float(preprocessor.pad_value)
        self.selection = _Selection(name, head) if source.nms else None
        self.outputs = ('boxes', 'scores', *(['labels'] if source.nms else []))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in images (N, C, H, W)."""
        normalize = self.normalizations[0]
        member: Any = self.members[0]
        bottom, right = self.padding
        inputs = F.pad(normalize(images), (0, right, 0, bottom), value=self.pad_value)
        head = member.bbox_head
        outputs = head(member.extract_feat(inputs))
        classes, sizes = head.cls_out_channels, _priors_per_level(head, outputs[0])
        corners = dense_predictions(head, outputs)[:, classes : classes + 4].transpose(1, 2)
        boxes = corners * _strides(head, sizes)
        coder = getattr(head, 'bbox_coder', None)  # YOLOX has none
        if getattr(coder, 'clip_border', False):
            height, width = self.size
            boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        scores = _probabilities(outputs[0], classes)
        factor = torch.ones_like(scores[..., :1])
        if len(outputs) > 2:
            factor = _probabilities(outputs[2], 1)
        if isinstance(head, YOLOXHead):  # compares the product of the best class to its threshold
            best = scores.argmax(2, keepdim=True) == torch.arange(classes)
            scores, factor = (scores * factor).where(best, 0), torch.ones_like(factor)
        if self.selection is None:
            return boxes, scores * factor
        return self.selection(boxes, scores, factor, sizes)


def _probabilities(levels: Sequence[Tensor], channels: int) -> Tensor:
    return torch.cat([flat_level(level, channels) for level in levels], 1).sigmoid()


def _priors_per_level(head: Any, levels: Sequence[Tensor]) -> list[int]:
    numbers = head.prior_generator.num_base_priors
    return [n * level[0, 0].numel() for n, level in zip(numbers, levels, strict=True)]


def _strides(head: Any, sizes: Sequence[int]) -> Tensor:
    strides = [s if isinstance(s, int) else s[0] for s in head.prior_generator.strides]
    return torch.cat(
        [torch.full((size, 1), float(s)) for size, s in zip(sizes, strides, strict=True)]
    )


class _Selection(nn.Module):
    """The selection of boxes of mmdet's dense heads, with outputs of fixed size."""

    def __init__(self, name: str, head: Any) -> None:
        super().__init__()
        config = head.test_cfg
        nms = dict(config.get('nms') or {})
        if nms.get('type', 'nms') != 'nms' or not nms.keys() <= _NMS_OPTIONS:
            raise ValueError(
                f"{name}: expected test_cfg.nms=dict(type='nms', iou_threshold=...) for --nms, got "
                f'{nms or None}. Export it without --nms'
            )
        self.iou_threshold = float(nms['iou_threshold'])
        self.score_threshold = float(config.get('score_thr', 0))
        self.number = box_limit(head)
        yolox = isinstance(head, YOLOXHead)  # ignores these settings
        self.per_level = 0 if yolox else int(config.get('nms_pre', 0))
        self.shortest_side = -1.0 if yolox else float(config.get('min_bbox_size', -1))

    def forward(
        self, boxes: Tensor, scores: Tensor, factor: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Select boxes (N, P, 4) by scores (N, P, K) before the factor (N, P, 1)."""
        levels = []
        for level in scores.split(list(sizes), 1):
            if 0 < self.per_level < level[0].numel():
                lowest = level.flatten(1).topk(self.per_level).values[:, -1, None, None]
                level = level.where(level >= lowest, 0)
            levels.append(level)
        scores = torch.cat(levels, 1)
        valid = scores > self.score_threshold
        if self.shortest_side >= 0:
            valid &= ((boxes[..., 2:] - boxes[..., :2]) > self.shortest_side).all(2, keepdim=True)
        scores = (scores * factor).where(valid, 0)
        kept = torch.ops.mmkdml.suppress(
            boxes, scores.transpose(1, 2).contiguous(), self.iou_threshold, self.number
        )
        priors = boxes.shape[1]
        values, places = kept.flatten(1).topk(min(self.number, priors * scores.shape[2]))
        chosen = boxes.gather(1, (places % priors)[..., None].expand(-1, -1, 4))
        found = values > 0
        return (
            chosen.where(found[..., None], -1),
            values.where(found, -1),
            (places // priors).where(found, -1),
        )
