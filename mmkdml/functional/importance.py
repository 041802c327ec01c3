"""Where networks look, compared in two ways: DSD's pixel similarity and EMKD's importance maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.attention import attention_map
from mmkdml.functional.divergence import full_precision
from mmkdml.functional.vectors import directions

# Two attention maps that are equal differ by as much in float32.
ROUNDING = 1e-6


def pixel_similarity(learner: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """Difference in how attention moves from map to map of a network (DSD's PSD).

    Feng et al., *Double Similarity Distillation for Semantic Image Segmentation*, TIP 2021;
    winycg/CIRKD:losses/dsd.py. With a the attention maps of a network (exponent 2), its residuals
    are the directions of a_m - a_n for all n < m; the loss is the squared difference between the
    two sides' residuals, averaged over N, H and W and over the pairs. The reference needs maps of
    one size; here attention is averaged down to the smallest height and width among all maps. Two
    maps that look at the same places have no residual: 0, and no gradient.

    Args:
        learner: At least two maps (N, C, H, W), in the order of the layers; all but N may differ.
        source: As many, the same N.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the numbers of maps differ or are below two, or N differs.
    """
    if len(learner) != len(source) or len(learner) < 2:
        raise ValueError(
            'The pixel similarity compares two or more maps of the learner with as many of the '
            f'source, got {len(learner)} and {len(source)}'
        )
    maps = (*learner, *source)
    if len({len(features) for features in maps}) > 1:
        raise ValueError(
            f'Expected maps of one N, got {[tuple(features.shape) for features in maps]}'
        )
    attentions = [attention_map(features) for features in maps]
    size = min(a.shape[1] for a in attentions), min(a.shape[2] for a in attentions)
    attentions = [directions(F.adaptive_avg_pool2d(a, size).flatten(1)) for a in attentions]
    return F.mse_loss(
        _residuals(attentions[: len(learner)]), _residuals(attentions[len(learner) :])
    )


def importance_difference(learner: Tensor, source: Tensor, exponent: float = 4.0) -> Tensor:
    """Squared difference between two attention maps, summed over the pixels (EMKD's IMD).

    Qin et al., *Efficient Medical Image Segmentation Based on Knowledge Distillation*, TMI 2021;
    EagleMIT/EMKD:utils/loss_functions.py. Averaged over N alone, so that it is H * W times
    attention transfer at the same exponent.

    Args:
        learner: Feature map (N, C, H, W), resized bilinearly to the source's size if they differ.
        source: Feature map (N, C', H', W').
        exponent: At least 1.

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: If the shapes do not fit, or the exponent is below 1.
    """
    if learner.ndim != 4 or source.ndim != 4 or len(learner) != len(source):
        raise ValueError(
            'The importance maps need two maps (N, C, H, W) of one N, got '
            f"the learner's {tuple(learner.shape)} and the source's {tuple(source.shape)}"
        )
    if learner.shape[2:] != source.shape[2:]:
        learner = F.interpolate(full_precision(learner), size=source.shape[2:], mode='bilinear')
    difference = attention_map(learner, exponent) - attention_map(source, exponent)
    return difference.square().sum(dim=(1, 2)).mean()


def _residuals(attentions: Sequence[Tensor]) -> Tensor:
    """M times (N, H * W) -> (M * (M - 1) / 2, N, H * W)."""
    return torch.stack(
        [directions(b - a, shortest=ROUNDING) for a, b in combinations(attentions, 2)]
    )
