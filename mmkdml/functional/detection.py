"""Divergence between the predictions of two detectors: classes and boxes of every prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.boxes import aligned_giou
from mmkdml.functional.checks import check_at_least, check_choice, check_positive
from mmkdml.functional.divergence import check_kl_options, prediction_kl
from mmkdml.functional.vectors import full_precision

BOX_LOSSES = ('auto', 'giou', 'distribution')
# Shortest side of a box in strides; the gradient of GIoU grows with the inverse of the side.
SHORTEST_SIDE = 0.01


def detection_divergence(
    learner: Tensor,
    source: Tensor,
    num_classes: int,
    temperature: float = 2.0,
    direction: str = 'learner||source',
    scale: str = 'none',
    box_weight: float = 1.0,
    box_loss: str = 'auto',
    box_temperature: float = 10.0,
) -> Tensor:
    """Compute the divergence of the classes and boxes that two one-stage detectors predict.

    The confidence of a prior is the source's highest class probability, and n is its sum over all
    priors and images, at least 1. The loss is (sum of the classes' divergences + ``box_weight`` *
    sum of confidence * difference of the boxes) / n:

    - Classes: the KL divergence of the Bernoulli distributions sigmoid(z/T) of every class at every
      prior; see :func:`mmkdml.functional.prediction_kl` with ``multi_label=True``. Background is
      not weighted, because a false alarm is an error at a prior without confidence.
    - Boxes, ``'giou'``: 1 - GIoU (Rezatofighi et al., CVPR 2019). CrossKD weights it in the same
      way, but divides it by the number of positive priors (Wang et al., CVPR 2024;
      jbwang1997/CrossKD:mmdet/models/detectors/crosskd_atss.py). Edges in the wrong order are
      swapped, and sides are at least 0.01 strides.
    - Boxes, ``'distribution'``: T^2 * D(source || learner) of the distributions of the distances to
      the edges at ``box_temperature``, averaged over the four edges (Zheng et al., Localization
      Distillation, CVPR 2022; HikariTJU/LD). The divergence is summed over the bins, where the
      reference and MMDetection average, so it is reg_max + 1 times theirs.

    In distributed training each process divides by the confidence of its own images.

    Args:
        learner: (N, K + 4 + D, P). For each of P priors: K class logits; the box x1, y1, x2, y2 in
            strides of its level; and D = 4 * (reg_max + 1) logits of the distances to the left,
            top, right and bottom edge (GFL), or none.
        source: Same shape.
        num_classes: K >= 1.
        temperature: T > 0 of the class logits.
        direction: ``'learner||source'`` or ``'source||learner'``, of the classes.
        scale: ``'none'`` or ``'temperature_squared'``, of the classes.
        box_weight: Weight of the boxes relative to the classes, >= 0.
        box_loss: ``'giou'``, ``'distribution'``, or ``'auto'``: ``'distribution'`` if there are
            distributions (D > 0), otherwise ``'giou'``.
        box_temperature: T > 0 of the distributions.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes do not fit, or an option is invalid.

    Example:
        >>> import torch
        >>> from mmkdml.functional import detection_divergence
        >>> source = torch.tensor([[[2.0], [-2.0], [0.0], [0.0], [4.0], [4.0]]])
        >>> learner = torch.tensor([[[0.0], [-2.0], [0.0], [0.0], [4.0], [2.0]]])
        >>> round(detection_divergence(learner, source, num_classes=2, box_weight=0).item(), 4)
        0.1201
        >>> detection_divergence(source, source, num_classes=2).item()
        0.0
    """
    check_kl_options(temperature, direction, scale)
    check_box_options(box_weight, box_loss, box_temperature)
    check_detections(learner, source, num_classes, box_loss)
    learner, source = full_precision(learner), full_precision(source)
    logits, boxes, distances = learner.tensor_split([num_classes, num_classes + 4], dim=1)
    source_logits, source_boxes, source_distances = source.tensor_split(
        [num_classes, num_classes + 4], dim=1
    )
    confidence = source_logits.amax(dim=1).sigmoid()
    total = confidence.sum().clamp_min(1)
    classes = prediction_kl(logits, source_logits, temperature, direction, scale, multi_label=True)
    loss = classes * (confidence.numel() / total)
    if box_weight == 0:
        return loss
    if box_loss == 'giou' or (box_loss == 'auto' and distances.shape[1] == 0):
        differences = 1 - aligned_giou(_with_sides(boxes), _with_sides(source_boxes))
    else:
        differences = _distribution_kl(distances, source_distances, box_temperature)
    return loss + box_weight * (confidence * differences).sum() / total


def check_detections(learner: Tensor, source: Tensor, num_classes: int, box_loss: str) -> None:
    """Raise ``ValueError`` unless two tensors are predictions of detectors with the same heads."""
    shapes = tuple(learner.shape), tuple(source.shape)
    distances = learner.shape[1] - num_classes - 4 if learner.ndim == 3 else -1
    if shapes[0] != shapes[1] or distances < 0 or distances % 4 or distances == 4:
        raise ValueError(
            'Invalid predictions of detectors: expected two tensors (N, C, P) of the same shape '
            f'with C = {num_classes} class logits + 4 edges + 4 * (reg_max + 1) or no logits of '
            f"distances, got the learner's {shapes[0]} and the source's {shapes[1]}. Unlike heads "
            '(other classes, priors or distances) cannot share predictions: share features '
            "instead, with knowledge='features'"
        )
    if box_loss == 'distribution' and distances == 0:
        raise ValueError(
            "Invalid box_loss: 'distribution' needs logits of distances, as GFL predicts, got "
            f"predictions {shapes[0]} without them. Use box_loss='giou'"
        )


def check_box_options(box_weight: float, box_loss: str, box_temperature: float) -> None:
    """Raise ``ValueError`` for invalid options of :func:`detection_divergence`."""
    check_at_least('box_weight', box_weight, 0)
    check_choice('box_loss', box_loss, BOX_LOSSES)
    check_positive('box_temperature', box_temperature)


def _with_sides(boxes: Tensor) -> Tensor:
    """Return boxes (N, 4, P) as (N, P, 4) with edges in order and sides that are not too short."""
    first, second = boxes.transpose(1, 2).split(2, dim=-1)
    lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    return torch.cat([lower, torch.maximum(upper, lower + SHORTEST_SIDE)], dim=-1)


def _distribution_kl(learner: Tensor, source: Tensor, temperature: float) -> Tensor:
    """Compute T^2 * D(source || learner) of (N, 4 * bins, P), averaged over the edges, (N, P)."""
    log_learner, log_source = (
        F.log_softmax(side.unflatten(1, (4, -1)) / temperature, dim=2) for side in (learner, source)
    )
    terms = F.kl_div(log_learner, log_source, reduction='none', log_target=True)
    return temperature**2 * terms.sum(dim=2).mean(dim=1)
