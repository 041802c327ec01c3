"""Predictions of mmdet's dense heads as one tensor per image, for transfers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import (
    ATSSHead,
    FCOSHead,
    GFLHead,
    RetinaHead,
    RTMDetHead,
    RTMDetSepBNHead,
    YOLOXHead,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

# Heads whose forward pass returns class logits and box predictions of each level.
_KNOWN = (ATSSHead, FCOSHead, GFLHead, RetinaHead, RTMDetHead, RTMDetSepBNHead, YOLOXHead)


def has_dense_predictions(head: nn.Module) -> bool:
    """Return whether :func:`dense_predictions` supports a head.

    These are the heads of ATSS, FCOS, GFL, RetinaNet, RTMDet and YOLOX, and those that differ from
    them in losses or assignment only, such as PAA or FreeAnchor. Their classes must be predicted by
    sigmoids.
    """
    kind: Any = type(head)
    return (
        inherits(head, 'forward', 'forward_single')
        and kind.loss is BaseDenseHead.loss
        and getattr(head, 'use_sigmoid_cls', True)
    )


def inherits(head: Any, *methods: str) -> bool:
    """Return whether a head has the methods of one of the six known heads that it is based on."""
    return any(
        isinstance(head, known)
        and all(getattr(type(head), name) is getattr(known, name) for name in methods)
        for known in _KNOWN
    )


def dense_predictions(head: Any, outputs: Sequence[Sequence[Tensor]]) -> Tensor:
    """Join the levels of a dense head, and decode its boxes.

    Args:
        head: Head for which :func:`has_dense_predictions` is true.
        outputs: Output of its forward pass: class logits (N, A K, h, w) of each level for A priors
            per position, the box predictions, and objectness if it has one.

    Returns:
        (N, K + 4 + D, P) for all P priors, the finest level first: K class logits, the corners
        (x1, y1, x2, y2) of the decoded box divided by the stride of its level, and the D logits of
        the distributions of a GFL head (left, top, right, bottom), else D = 0. Logits of a YOLOX
        head are those of the product of class and objectness, which it predicts.
    """
    scores, boxes = outputs[0], outputs[1]
    generator = head.prior_generator
    sizes = [level.shape[-2:] for level in scores]
    priors = generator.grid_priors(sizes, device=scores[0].device)
    strides = [s if isinstance(s, int) else s[0] for s in generator.strides]
    stride = torch.cat(
        [prior.new_full((len(prior), 1), s) for prior, s in zip(priors, strides, strict=True)]
    )
    logits = torch.cat([flat_level(level, head.cls_out_channels) for level in scores], 1)
    if isinstance(head, YOLOXHead):
        logits = _product_logits(
            logits, torch.cat([flat_level(level, 1) for level in outputs[2]], 1)
        )
    box_channels = boxes[0].shape[1] * sizes[0].numel() // len(priors[0])
    regressed = torch.cat([flat_level(level, box_channels) for level in boxes], 1)
    corners = _decode(head, torch.cat(priors), regressed, stride) / stride
    parts = [logits, corners, *([regressed] if isinstance(head, GFLHead) else [])]
    return torch.cat(parts, 2).transpose(1, 2)


def flat_level(level: Tensor, channels: int) -> Tensor:
    """Arrange a level (N, A C, h, w) as (N, h w A, C), the order of mmdet's priors."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)


def _decode(head: Any, prior: Tensor, regressed: Tensor, stride: Tensor) -> Tensor:
    """Decode box predictions (N, P, C) as the head does for its own predictions."""
    if isinstance(head, GFLHead):
        distances = head.integral(regressed.flatten(0, 1)).reshape(*regressed.shape[:2], 4)
        return distance2bbox(head.anchor_center(prior), distances * stride)
    if isinstance(head, YOLOXHead):
        return head._bbox_decode(torch.cat([prior, stride, stride], 1), regressed)
    if isinstance(head, FCOSHead) and head.norm_on_bbox and head.training:
        regressed = regressed * stride  # the head multiplies in eval mode only
    priors = prior.expand(regressed.shape[0], *prior.shape).flatten(0, 1)
    return head.bbox_coder.decode(priors, regressed.flatten(0, 1)).reshape(*regressed.shape)


def _product_logits(logits: Tensor, objectness: Tensor) -> Tensor:
    """Return the logit of the product of two probabilities."""
    log_product = F.logsigmoid(logits) + F.logsigmoid(objectness)
    # 1 - p q = (1 - p) + p (1 - q), a sum of positive terms, is exact near p q = 1.
    log_rest = torch.logaddexp(
        F.logsigmoid(-logits), F.logsigmoid(logits) + F.logsigmoid(-objectness)
    )
    return log_product - log_rest
