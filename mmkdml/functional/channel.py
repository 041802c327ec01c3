"""Losses on channels as distributions over positions: CWD and DSD's category similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_at_least, check_maps, check_mask, check_positive
from mmkdml.functional.vectors import full_precision, scalar_products


def channel_wise_kl(
    learner: Tensor,
    source: Tensor,
    temperature: float = 4.0,
    divisor: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute the KL divergence between spatial distributions, channel by channel (CWD).

    Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV 2021. With phi the
    softmax of a channel over its H * W positions at temperature T:
    T^2 / (N * D) * sum D_KL(phi_source || phi_learner). In
    irfanICMLL/TorchDistiller:SemSeg-distill/utils/criterion.py and
    open-mmlab/mmrazor:mmrazor/models/losses/cwd.py the divisor D is C, the number of channels
    compared; in winycg/CIRKD:losses/cwd.py it is the learner's number of channels before its
    projection to C. Both are equal without a projection.

    Args:
        learner: Logits or feature map (N, C, H, W); C = 1 is a binary task with one logit.
        source: Same shape.
        temperature: T > 0.
        divisor: D, at least 1. Default: C.
        mask: Bool (N, H, W), False for positions that are left out of the distributions; N is then
            the number of images with any other position. Default: all count, as in the references.

    Returns:
        Scalar >= 0; 0 if the mask is False everywhere.

    Raises:
        ValueError: If the shapes differ or are not maps, T is not positive, or D is below 1.

    Example:
        >>> import torch
        >>> from mmkdml.functional import channel_wise_kl
        >>> logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])  # 2 channels, 1x2 pixels
        >>> channel_wise_kl(logits + 3, logits).item() < 1e-6  # a constant does not matter
        True
        >>> round(channel_wise_kl(torch.zeros_like(logits), logits, temperature=1).item(), 4)
        0.2194
    """
    check_maps(learner, source, 'the channel-wise divergence')
    check_positive('temperature', temperature)
    check_mask(mask, learner)
    log_learner = _log_shares(learner, temperature, mask)
    log_source = _log_shares(source, temperature, mask)
    terms = F.kl_div(log_learner, log_source, reduction='none', log_target=True)
    if mask is None:
        value = temperature**2 * terms.sum(dim=2).mean()
    else:
        divergences = terms.where(mask.flatten(1).unsqueeze(1), 0).sum(dim=2).mean(dim=1)
        images = mask.flatten(1).any(dim=1)
        value = temperature**2 * divergences.sum() / images.sum().clamp_min(1)
    if divisor is None:
        return value
    check_at_least('divisor', divisor, 1)
    return value * (learner.shape[1] / divisor)


def category_similarity(learner: Tensor, source: Tensor, temperature: float = 4.0) -> Tensor:
    """Compute the mean squared difference between pairwise overlaps of class maps (DSD's CSD).

    Feng et al., *Double Similarity Distillation for Semantic Image Segmentation*, TIP 2021;
    winycg/CIRKD:losses/dsd.py. Logits are averaged over 2x2 pixels. With P the softmax of each
    class over the positions, (K, H * W / 4), the overlaps are P P^T.

    Args:
        learner: Logits (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        temperature: T > 0.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: If the shapes differ or are not maps, or T is not positive.
    """
    check_maps(learner, source, 'the category similarity')
    check_positive('temperature', temperature)
    return F.mse_loss(_overlaps(learner, temperature), _overlaps(source, temperature))


def _overlaps(logits: Tensor, temperature: float) -> Tensor:
    """(N, K, H, W) -> (N, K, K)."""
    pooled = F.avg_pool2d(full_precision(logits), 2, ceil_mode=True)
    shares = F.softmax(_positions(pooled) / temperature, dim=2)
    return scalar_products(shares, shares)


def _log_shares(maps: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    """Compute the log softmax over the positions, (N, C, H, W) -> (N, max(C, 2), H * W)."""
    scores = _positions(maps) / temperature
    if mask is not None:  # not -inf, whose softmax is NaN in an image without other positions
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask.flatten(1).unsqueeze(1), lowest)
    return F.log_softmax(scores, dim=2)


def _positions(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, max(C, 2), H * W).

    A binary logit z becomes -z/2 and z/2, as a two-class head with a symmetric initialization
    would learn; with 0 and z the background would be uniform over the positions.
    """
    maps = full_precision(maps).flatten(2)
    return torch.cat([-maps, maps], dim=1) / 2 if maps.shape[1] == 1 else maps
