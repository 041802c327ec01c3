"""Differences of feature maps that weight objects, background and attention apart (FGD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkdml.functional.checks import (
    check_at_least,
    check_feature_maps,
    check_positive,
    check_same_shape,
)
from mmkdml.functional.vectors import full_precision


def focal_difference(
    learner: Tensor,
    source: Tensor,
    boxes: Sequence[Tensor],
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
) -> Tensor:
    """Compare the objects, the background and the attention of two feature maps (FGD).

    Yang et al., *Focal and Global Knowledge Distillation for Detectors*, CVPR 2022, eq. 2 to 11;
    yzd-v/FGD:mmdet/distillation/losses/fgd.py. Attention of a map over its positions is H * W *
    softmax(mean of the absolute channels / T), over its channels C * softmax(mean of the absolute
    positions / T). With the source's attention a and the scale masks f and b, see
    :func:`scale_masks`, the loss is alpha * sum(f * a * d) + beta * sum(b * a * d) + gamma * (sum
    of the absolute differences of both attentions), averaged over images, where d is the squared
    difference of the maps. It therefore grows with the size of the map.

    The reference scales boxes by the size of each image, which moves them if the batch is padded;
    here they are fractions of the padded images.

    Args:
        learner: Feature map (N, C, H, W).
        source: Same shape.
        boxes: Boxes of each image (M, 4), x1, y1, x2, y2 as fractions of the width and height.
        temperature: T > 0 of the attention.
        alpha: Weight of the objects, >= 0.
        beta: Weight of the background, >= 0.
        gamma: Weight of the attention, >= 0.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes do not fit, or an option is invalid.
    """
    check_feature_maps(learner, source, same_size=True)
    check_same_shape(learner, source, 'FGD')
    check_focal_options(temperature, alpha, beta, gamma)
    _check_boxes(boxes, len(learner))
    learner, source = full_precision(learner), full_precision(source)
    positions, channels = _attentions(learner, temperature)
    source_positions, source_channels = _attentions(source, temperature)
    objects, background = scale_masks(boxes, learner)
    weights = (alpha * objects + beta * background) * source_positions
    differences = (weights * source_channels * (learner - source).square()).sum()
    attention = (positions - source_positions).abs().sum()
    attention = attention + (channels - source_channels).abs().sum()
    return (differences + gamma * attention) / len(learner)


def scale_masks(boxes: Sequence[Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
    """Weight the pixels of boxes by the inverse area of the box, and those of background equally.

    As in FGD's code a box covers the pixels from the rounded-down upper left to the rounded-up
    lower right corner inclusive. Pixels of several boxes get the weight of the smallest one.

    Args:
        boxes: See :func:`focal_difference`.
        features: (N, C, H, W), whose size, type and device the masks have.

    Returns:
        Masks (N, 1, H, W): 1 / area of the box in pixels, or 0; and 0, or 1 / number of pixels of
        the image without a box.
    """
    height, width = features.shape[2:]
    scale = torch.tensor([width, height] * 2, dtype=torch.float32, device=features.device)
    rows, columns = (torch.arange(size, device=features.device) for size in (height, width))
    objects = []
    for one in boxes:
        edges = one.to(scale) * scale
        (left, top), (right, bottom) = edges[:, :2].floor().mT, edges[:, 2:].ceil().mT
        inside_rows = (rows >= top[:, None]) & (rows <= bottom[:, None])
        inside_columns = (columns >= left[:, None]) & (columns <= right[:, None])
        areas = ((right - left + 1) * (bottom - top + 1)).to(features)
        weights = (inside_rows[:, :, None] & inside_columns[:, None, :]) / areas[:, None, None]
        # The additional zeros are for images without boxes.
        objects.append(torch.cat([weights, weights.new_zeros(1, height, width)]).amax(0, True))
    masks = torch.stack(objects)
    empty = (masks == 0).to(masks)
    return masks, empty / empty.sum((2, 3), keepdim=True).clamp_min(1)


def check_focal_options(temperature: float, alpha: float, beta: float, gamma: float) -> None:
    """Raise ``ValueError`` for invalid options of :func:`focal_difference`."""
    check_positive('temperature', temperature)
    for name, weight in (('alpha', alpha), ('beta', beta), ('gamma', gamma)):
        check_at_least(name, weight, 0)


def _check_boxes(boxes: Sequence[Tensor], number: int) -> None:
    shapes = [tuple(one.shape) for one in boxes]
    if len(shapes) != number or any(len(one) != 2 or one[1] != 4 for one in shapes):
        raise ValueError(
            f'Invalid boxes of FGD: expected {number} tensors (M, 4), one for each image of the '
            f'feature maps, got {shapes}'
        )


def _attentions(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the attention over positions (N, 1, H, W) and over channels (N, C, 1, 1)."""
    number, channels, height, width = features.shape
    sizes = features.abs()
    positions = (sizes.mean(1).flatten(1) / temperature).softmax(1).view(number, 1, height, width)
    by_channel = (sizes.mean((2, 3)) / temperature).softmax(1).view(number, channels, 1, 1)
    return height * width * positions, channels * by_channel
