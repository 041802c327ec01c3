"""Losses on attention maps: DSD's pixel similarity and EMKD's importance maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.attention import attention_map
from mmkdml.functional.checks import check_feature_maps
from mmkdml.functional.vectors import directions, full_precision

# Equal attention maps differ by up to this much in float32.
ROUNDING = 1e-6


def pixel_similarity(learner: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """Compare how attention changes between the layers of each network (DSD's PSD).

    Feng et al., *Double Similarity Distillation for Semantic Image Segmentation*, TIP 2021;
    winycg/CIRKD:losses/dsd.py. With a_m the attention map of layer m (exponent 2), the residuals of
    a network are the unit vectors along a_m - a_n for all n < m. The loss is the squared difference
    between the two sides' residuals, averaged over N, H, W and the pairs. The reference requires
    maps of one size; here attention is average-pooled to the smallest height and width of all maps.
    Two maps with equal attention have the residual 0 and receive no gradient.

    Args:
        learner: At least two maps (N, C, H, W), in the order of the layers; all but N may differ.
        source: As many maps with the same N.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the numbers of maps differ or are below two, or N differs.
    """
    if len(learner) != len(source) or len(learner) < 2:
        raise ValueError(
            'Invalid inputs of the pixel similarity: expected two or more maps of the learner and '
            f'as many of the source, got {len(learner)} and {len(source)}'
        )
    maps = (*learner, *source)
    if len({len(features) for features in maps}) > 1:
        raise ValueError(
            'Invalid inputs of the pixel similarity: expected maps with the same N, got '
            f'{[tuple(features.shape) for features in maps]}'
        )
    attentions = [attention_map(features) for features in maps]
    size = min(a.shape[1] for a in attentions), min(a.shape[2] for a in attentions)
    attentions = [directions(F.adaptive_avg_pool2d(a, size).flatten(1)) for a in attentions]
    return F.mse_loss(
        _residuals(attentions[: len(learner)]), _residuals(attentions[len(learner) :])
    )


def importance_difference(learner: Tensor, source: Tensor, exponent: float = 4.0) -> Tensor:
    """Compute the squared difference between attention maps, summed over pixels (EMKD's IMD).

    Qin et al., *Efficient Medical Image Segmentation Based on Knowledge Distillation*, TMI 2021;
    EagleMIT/EMKD:utils/loss_functions.py. It is averaged over N only and thus H * W times the
    attention transfer loss with the same exponent.

    Args:
        learner: Feature map (N, C, H, W), resized bilinearly to the source's size if they differ.
        source: Feature map (N, C', H', W').
        exponent: At least 1.

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: If N differs, the features are not maps, or the exponent is below 1.
    """
    check_feature_maps(learner, source)
    if learner.shape[2:] != source.shape[2:]:
        learner = F.interpolate(full_precision(learner), size=source.shape[2:], mode='bilinear')
    difference = attention_map(learner, exponent) - attention_map(source, exponent)
    return difference.square().sum(dim=(1, 2)).mean()


def _residuals(attentions: Sequence[Tensor]) -> Tensor:
    """M times (N, H * W) -> (M * (M - 1) / 2, N, H * W)."""
    return torch.stack(
        [directions(b - a, shortest=ROUNDING) for a, b in combinations(attentions, 2)]
    )
