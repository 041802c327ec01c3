"""Supervised segmentation losses: focal plus squared Dice (paper, eq. 8) and EMKD's."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_at_least, check_choice, check_labels
from mmkdml.functional.divergence import softened_log_probabilities

# Avoids 0/0 for a batch without foreground that is predicted perfectly.
DICE_EPSILON = 1e-8
FOCAL_REFERENCES = ('emkd', 'origin')

Total = Callable[[Tensor], Tensor]


def _same(sums: Tensor) -> Tensor:
    return sums


def focal_and_dice(
    logits: Tensor,
    labels: Tensor,
    focusing: float = 2.0,
    ignore_index: int = 255,
    pixel_weights: Tensor | None = None,
    total: Total = _same,
) -> tuple[Tensor, Tensor]:
    """Compute the focal and the Dice term of eq. 8 from one softmax.

    Focal: -(1 - p_t)^focusing * log(p_t), with p_t the probability of the pixel's true class,
    averaged over the pixels that are not ignored. Dice: 1 - 2 * sum(p * g) / (sum(p^2) + sum(g^2))
    for each foreground class, averaged over these classes. Sums run over all pixels of the batch,
    because the Dice of a single image without foreground is constant.

    Args:
        logits: (N, K, H, W). K = 1 is a binary task with one logit and a sigmoid; K > 1 uses a
            softmax with class 0 as the background.
        labels: (N, H, W), integers in [0, max(K, 2)), or ``ignore_index``.
        focusing: The exponent tau >= 0; its value is not in the paper.
        ignore_index: Label of pixels that are excluded from both terms.
        pixel_weights: (N, H, W), multiplied with each pixel's contribution to both terms.
        total: Maps sums over this batch (any shape) to the sums that both terms are computed from,
            e.g. by an all-reduce over processes. Default: identity.

    Returns:
        Scalars (focal, dice); focal >= 0, dice in [0, 1].

    Raises:
        ValueError: If the shapes do not fit, a label is out of range, or focusing is negative.

    Example:
        >>> import torch
        >>> from mmkdml.functional import focal_and_dice
        >>> labels = torch.tensor([[[0, 1], [1, 0]]])
        >>> logits = 20.0 * (2 * labels.unsqueeze(1) - 1)  # certain and correct
        >>> focal, dice = focal_and_dice(logits, labels)
        >>> round(focal.item(), 6), round(dice.item(), 6)
        (0.0, 0.0)
    """
    focal, counted, foreground, target, weights = _focal_and_foreground(
        logits, labels, focusing, ignore_index, pixel_weights
    )
    overlap = (foreground * target * weights).sum(dim=(0, 2, 3))
    sizes = ((foreground**2 + target**2) * weights).sum(dim=(0, 2, 3))
    focal, overlap, sizes = _totals(total, focal, counted, overlap, sizes)
    dice = 1 - (2 * overlap + DICE_EPSILON) / (sizes + DICE_EPSILON)
    return focal, dice.mean()


def focal_and_smooth_dice(
    logits: Tensor,
    labels: Tensor,
    focusing: float = 2.0,
    ignore_index: int = 255,
    pixel_weights: Tensor | None = None,
    reference: str = 'emkd',
    total: Total = _same,
) -> tuple[Tensor, Tensor]:
    """Compute the two terms of EMKD's supervised loss, which weights each by one half.

    Qin et al., *Efficient Medical Image Segmentation Based on Knowledge Distillation*, TMI 2021;
    EagleMIT/EMKD:utils/loss_functions.py, where both classes have the focal weight 1. Focal: as in
    :func:`focal_and_dice`. Dice: 1 - (2 * sum(p * g) + 1) / (sum(p) + sum(g) + 1), not squared,
    with one sum over all pixels of the batch and all foreground classes.

    Args:
        logits: (N, K, H, W), see :func:`focal_and_dice`.
        labels: (N, H, W), integers in [0, max(K, 2)), or ``ignore_index``.
        focusing: The exponent, >= 0.
        ignore_index: Label of pixels that are excluded from both terms.
        pixel_weights: (N, H, W).
        reference: ``'emkd'``: the focal weight (1 - p_t)^focusing is a constant in the gradient.
            ``'origin'``: it is differentiated, as in Lin et al., *Focal Loss for Dense Object
            Detection*, ICCV 2017. The value is the same.
        total: See :func:`focal_and_dice`.

    Returns:
        Scalars (focal, dice); focal >= 0, dice in [0, 1).

    Raises:
        ValueError: If the shapes do not fit, a label is out of range, or an option is invalid.
    """
    check_choice('reference', reference, FOCAL_REFERENCES)
    focal, counted, foreground, target, weights = _focal_and_foreground(
        logits, labels, focusing, ignore_index, pixel_weights, fixed=reference == 'emkd'
    )
    overlap = (foreground * target * weights).sum()
    sizes = ((foreground + target) * weights).sum()
    focal, overlap, sizes = _totals(total, focal, counted, overlap, sizes)
    return focal, 1 - (2 * overlap + 1) / (sizes + 1)


def _totals(
    total: Total, focal: Tensor, counted: Tensor, overlap: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the focal term and the Dice sums with one call of ``total`` (one all-reduce)."""
    focal, counted, overlap, sizes = total(
        torch.stack([focal.expand_as(overlap), counted.expand_as(overlap), overlap, sizes])
    )
    return (focal / counted.clamp_min(1)).mean(), overlap, sizes


def _focal_and_foreground(
    logits: Tensor,
    labels: Tensor,
    focusing: float,
    ignore_index: int,
    pixel_weights: Tensor | None,
    fixed: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the parts of the focal and Dice terms.

    Returns:
        The sum of the focal terms (their weights detached if ``fixed``) and the number of pixels
        that are not ignored, both scalars; probabilities and one-hot labels of the foreground
        classes, (N, K - 1, H, W) each; the pixel weights (N, 1, H, W), 0 where ignored.
    """
    if logits.ndim != 4 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            'Invalid inputs of a segmentation loss: expected logits (N, K, H, W) and labels '
            f'(N, H, W) of the same size, got {tuple(logits.shape)} and {tuple(labels.shape)}'
        )
    if pixel_weights is not None and pixel_weights.shape != labels.shape:
        raise ValueError(
            f"Invalid pixel_weights: expected the labels' size {tuple(labels.shape)}, got "
            f'{tuple(pixel_weights.shape)}'
        )
    check_at_least('focusing', focusing, 0)
    log_probabilities = softened_log_probabilities(logits, temperature=1.0)
    num_classes = log_probabilities.shape[1]
    check_labels(labels, num_classes, ignore_index)
    counted = labels != ignore_index
    truth = labels.where(counted, 0).long()
    weights = counted.to(log_probabilities.dtype)
    if pixel_weights is not None:
        weights = weights * pixel_weights

    log_true = log_probabilities.gather(1, truth.unsqueeze(1)).squeeze(1)
    # At p_t = 1 the derivative of a power below 1 is infinite, and infinity times 0 is NaN.
    missed = (-log_true.expm1()).clamp_min(torch.finfo(log_true.dtype).tiny)
    if fixed:
        missed = missed.detach()
    focal = missed**focusing * -log_true
    focal = (focal * weights).sum()

    foreground = log_probabilities[:, 1:].exp()
    target = F.one_hot(truth, num_classes).movedim(-1, 1)[:, 1:].to(foreground.dtype)
    return focal, counted.sum().to(focal), foreground, target, weights.unsqueeze(1)
