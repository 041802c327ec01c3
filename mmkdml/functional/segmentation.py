"""Supervised segmentation losses: the paper's (eq. 8), focal and squared Dice, and EMKD's."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.divergence import full_precision, softened_log_probabilities
from mmkdml.functional.structure import check_reference

# Only keeps 0/0 away, in a batch without foreground that is predicted perfectly.
DICE_EPSILON = 1e-8
FOCAL_REFERENCES = ('emkd', 'origin')

Total = Callable[[Tensor], Tensor]


def _of_the_batch(sums: Tensor) -> Tensor:
    return sums


def focal_and_dice(
    logits: Tensor,
    labels: Tensor,
    focusing: float = 2.0,
    ignore_index: int = 255,
    pixel_weights: Tensor | None = None,
    total: Total = _of_the_batch,
) -> tuple[Tensor, Tensor]:
    """The two terms of eq. 8, from one softmax.

    Focal: -(1 - p_t)^focusing * log(p_t), p_t being the probability of the pixel's true class,
    averaged over the pixels that count. Dice: 1 - 2 * sum(p * g) / (sum(p^2) + sum(g^2)) over all
    pixels of the batch, for the foreground; the mean over the foreground classes if there are more.
    The sums run over the whole batch because an image without foreground alone has a constant Dice.

    Args:
        logits: (N, K, H, W). K = 1 is a binary task with one logit and a sigmoid; with K > 1 there
            is a softmax, and class 0 is the background.
        labels: (N, H, W), integers in [0, max(K, 2)), or ``ignore_index``.
        focusing: The paper's tau >= 0, which it does not print.
        ignore_index: Pixels with this label count in neither term.
        pixel_weights: (N, H, W), multiplied to each pixel's share in both terms.
        total: From sums over this batch, of any shape, to those of which both terms are ratios,
            such as the sums over all of a batch that several processes share. Default: the same.

    Returns:
        Scalars (focal, dice); focal >= 0, dice in [0, 1].

    Raises:
        ValueError: If the shapes do not fit, a label is out of range, or focusing is negative.
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
    total: Total = _of_the_batch,
) -> tuple[Tensor, Tensor]:
    """The two terms of EMKD's supervised loss, each of which it weights with one half.

    Qin et al., *Efficient Medical Image Segmentation Based on Knowledge Distillation*, TMI 2021;
    EagleMIT/EMKD:utils/loss_functions.py, where both classes have the focal weight 1. Focal: as in
    :func:`focal_and_dice`. Dice: 1 - (2 * sum(p * g) + 1) / (sum(p) + sum(g) + 1), without squares,
    over all pixels of the batch and all foreground classes together.

    Args:
        logits: See :func:`focal_and_dice`, as the next four.
        labels: (N, H, W).
        focusing: The exponent, >= 0.
        ignore_index: Pixels with this label count in neither term.
        pixel_weights: (N, H, W).
        reference: ``'emkd'``: a pixel's focal weight (1 - p_t)^focusing is a constant to the
            gradient. ``'origin'``: it is not, as in Lin et al., *Focal Loss for Dense Object
            Detection*, ICCV 2017. The value is the same.
        total: See :func:`focal_and_dice`.

    Returns:
        Scalars (focal, dice); focal >= 0, dice in [0, 1).

    Raises:
        ValueError: See :func:`focal_and_dice`; or if the reference is unknown.
    """
    check_reference(reference, FOCAL_REFERENCES)
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
    """The focal term and the sums of the Dice term; one call, for it may ask other processes."""
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
    """What the focal term and a Dice term are made of.

    Returns:
        Scalars: the sum of the focal terms, whose weights are constants to the gradient if
        ``fixed``, and the number of pixels that count; probabilities and truth of all classes but
        the first, (N, K - 1, H, W) each; the pixels' weights (N, 1, H, W), 0 where ignored.
    """
    if logits.ndim != 4 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            'Expected logits (N, K, H, W) and labels (N, H, W) of one size, got '
            f'{tuple(logits.shape)} and {tuple(labels.shape)}'
        )
    if pixel_weights is not None and pixel_weights.shape != labels.shape:
        raise ValueError(
            f"Expected pixel_weights of the labels' size {tuple(labels.shape)}, got "
            f'{tuple(pixel_weights.shape)}'
        )
    if not focusing >= 0:
        raise ValueError(f'focusing must be at least 0, got {focusing}')
    log_probabilities = softened_log_probabilities(logits, temperature=1.0)
    num_classes = log_probabilities.shape[1]
    counted = labels != ignore_index
    truth = labels.where(counted, 0).long()
    # On a GPU the check would wait for the device at every step, and gather stops there anyway.
    if truth.is_cpu and not bool(((truth >= 0) & (truth < num_classes)).all()):
        raise ValueError(
            f'Labels must be in [0, {num_classes}) or {ignore_index} (ignored), got '
            f'{sorted(int(v) for v in labels.unique())}'
        )
    weights = counted.to(log_probabilities.dtype)
    if pixel_weights is not None:
        weights = weights * full_precision(pixel_weights)

    log_true = log_probabilities.gather(1, truth.unsqueeze(1)).squeeze(1)
    # Where p_t is 1 the slope of a power below 1 is infinite, and infinity times 0 not a number.
    missed = (-log_true.expm1()).clamp_min(torch.finfo(log_true.dtype).tiny)
    if fixed:
        missed = missed.detach()
    focal = missed**focusing * -log_true
    focal = (focal * weights).sum()

    foreground = log_probabilities[:, 1:].exp()
    target = F.one_hot(truth, num_classes).movedim(-1, 1)[:, 1:].to(foreground.dtype)
    return focal, counted.sum().to(focal), foreground, target, weights.unsqueeze(1)
