"""Channels as distributions over the positions of a map: CWD, and DSD's category similarity."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.divergence import check_same_shape, full_precision
from mmkdml.functional.vectors import scalar_products


def channel_wise_kl(
    learner: Tensor, source: Tensor, temperature: float = 4.0, divisor: int | None = None
) -> Tensor:
    """KL divergence between the two sides' distributions over positions, channel by channel (CWD).

    Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV 2021. With phi the
    softmax of a channel over its H * W positions at temperature T:
    T^2 / (N * D) * sum D_KL(phi_source || phi_learner). In
    irfanICMLL/TorchDistiller:SemSeg-distill/utils/criterion.py and
    open-mmlab/mmrazor:mmrazor/models/losses/cwd.py the divisor D is C, the number of channels
    compared; in winycg/CIRKD:losses/cwd.py it is the number of channels that the learner had before
    it was projected to C. Both are equal where nothing is projected.

    Args:
        learner: Logits or feature map (N, C, H, W); C = 1 is a binary task with one logit.
        source: The same shape.
        temperature: T > 0.
        divisor: D, at least 1. Default: C.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes differ or are no maps, T is not positive, or D is below 1.
    """
    check_maps(learner, source, 'The channel-wise divergence', temperature)
    log_learner = F.log_softmax(_positions(learner) / temperature, dim=2)
    log_source = F.log_softmax(_positions(source) / temperature, dim=2)
    divergences = F.kl_div(log_learner, log_source, reduction='none', log_target=True).sum(dim=2)
    value = temperature**2 * divergences.mean()
    if divisor is None:
        return value
    if divisor < 1:
        raise ValueError(f'Invalid divisor: expected at least 1, got {divisor}')
    return value * (learner.shape[1] / divisor)


def category_similarity(learner: Tensor, source: Tensor, temperature: float = 4.0) -> Tensor:
    """Mean squared difference between how much the classes' maps overlap (DSD's CSD).

    Feng et al., *Double Similarity Distillation for Semantic Image Segmentation*, TIP 2021;
    winycg/CIRKD:losses/dsd.py. Logits are averaged over 2x2 pixels; with P the softmax of each
    class over the positions, (K, H * W / 4), the classes' similarities are P P^T.

    Args:
        learner: Logits (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        temperature: T > 0.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: If the shapes differ or are no maps, or T is not positive.
    """
    check_maps(learner, source, 'The category similarity', temperature)
    return F.mse_loss(_overlaps(learner, temperature), _overlaps(source, temperature))


def check_maps(learner: Tensor, source: Tensor, what: str, temperature: float) -> None:
    """Raises ``ValueError`` unless both are maps of one shape and T is positive."""
    check_same_shape(learner, source, what)
    if learner.ndim != 4:
        raise ValueError(
            f'{what} needs maps (N, C, H, W), got {tuple(learner.shape)}; for logits (N, K) there '
            'is PredictionKLLoss'
        )
    check_temperature(temperature)


def check_temperature(temperature: float) -> None:
    """Raises ``ValueError`` unless T is a positive number."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f'temperature must be a positive number, got {temperature}')


def _overlaps(logits: Tensor, temperature: float) -> Tensor:
    """(N, K, H, W) -> (N, K, K)."""
    pooled = F.avg_pool2d(full_precision(logits), 2, ceil_mode=True)
    shares = F.softmax(_positions(pooled) / temperature, dim=2)
    return scalar_products(shares, shares)


def _positions(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, max(C, 2), H * W).

    A binary logit z becomes -z/2 and z/2, which a head of two classes learns from a symmetric
    start; with 0 and z the background would be anywhere alike.
    """
    maps = full_precision(maps).flatten(2)
    return torch.cat([-maps, maps], dim=1) / 2 if maps.shape[1] == 1 else maps
