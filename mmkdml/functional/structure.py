"""Structured knowledge distillation (SKD): of pixels, and of pairs of regions.

Liu et al., *Structured Knowledge Distillation for Semantic Segmentation*, CVPR 2019, and its
journal version *... for Dense Prediction*, TPAMI 2020. The third part, holistic, is in
:mod:`mmkdml.functional.adversarial`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.divergence import (
    check_same_shape,
    full_precision,
    prediction_kl,
    softened_log_probabilities,
)
from mmkdml.functional.vectors import directions, lengths, scalar_products

PIXEL_WISE_REFERENCES = ('cirkd', 'skd', 'ifvd')
PAIR_WISE_REFERENCES = ('cirkd', 'skd')


def check_reference(reference: str, allowed: tuple[str, ...]) -> None:
    """Raises ``ValueError`` for a variant that there is not."""
    if reference not in allowed:
        raise ValueError(f'reference must be one of {", ".join(allowed)}; got {reference!r}')


def pixel_wise_divergence(learner: Tensor, source: Tensor, reference: str = 'cirkd') -> Tensor:
    """How far the learner's class probabilities are from the source's at every pixel, at T = 1.

    Args:
        learner: Logits (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        reference: ``'cirkd'``: D(source || learner), averaged over N, H, W
            (winycg/CIRKD:losses/kd.py). ``'skd'``: cross-entropy -sum(p * log s) / (H * W), a sum
            over the batch (irfanICMLL/structure_knowledge_distillation:utils/criterion.py).
            ``'ifvd'``: D(source || learner), averaged over the classes, too
            (YukangWang/IFVD:utils/criterion.py).

    Returns:
        Scalar >= 0; with ``'skd'`` it is not below the source's entropy.

    Raises:
        ValueError: If the shapes differ or are no maps, or the reference is unknown.
    """
    check_reference(reference, PIXEL_WISE_REFERENCES)
    check_same_shape(learner, source, 'The pixel-wise divergence')
    if learner.ndim != 4:
        raise ValueError(
            f'Expected logits (N, K, H, W), got {tuple(learner.shape)}; for logits (N, K) there is '
            'PredictionKLLoss'
        )
    if reference == 'skd':
        source_log = softened_log_probabilities(source, temperature=1.0)
        terms = source_log.exp() * softened_log_probabilities(learner, temperature=1.0)
        return -terms.sum() / learner.shape[2:].numel()
    divergence = prediction_kl(learner, source, temperature=1.0, direction='source||learner')
    return divergence / max(learner.shape[1], 2) if reference == 'ifvd' else divergence


def pair_wise_difference(
    learner: Tensor, source: Tensor, reference: str = 'cirkd', scale: float = 0.5
) -> Tensor:
    """Mean squared difference between the two sides' cosines of all pairs of regions.

    A region's vector is the maximum of each channel over the region. There are (H * W / 4)^2 pairs
    per image in CIRKD, 16 at SKD's scale.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H, W); C' may be another number.
        reference: ``'cirkd'``: regions of 2x2 pixels (winycg/CIRKD:losses/skd.py). ``'skd'``:
            regions of ``scale`` times the map's size, in float32 even where the maps are not, and
            the vectors' lengths count as constants in the gradient
            (irfanICMLL/structure_knowledge_distillation:utils/utils.py).
        scale: In (0, 1]; of ``'skd'`` alone.

    Returns:
        Scalar in [0, 4].

    Raises:
        ValueError: If N, H or W differ, the scale is out of range, or the reference is unknown.
    """
    check_reference(reference, PAIR_WISE_REFERENCES)
    check_scale(scale)
    check_same_grid(learner, source, 'The pair-wise difference')
    height, width = source.shape[2:]
    size = (2, 2)
    if reference == 'skd':
        size = max(1, int(height * scale)), max(1, int(width * scale))
    difference = _cosines(learner, size, reference) - _cosines(source, size, reference)
    return difference.square().mean()


def check_scale(scale: float) -> None:
    """Raises ``ValueError`` for a region's size that cannot be."""
    if not 0 < scale <= 1:
        raise ValueError(f'scale must be in (0, 1], got {scale}')


def check_same_grid(learner: Tensor, source: Tensor, what: str) -> None:
    """Raises ``ValueError`` unless both are maps (N, C, H, W) with the same N, H and W."""
    grids = [(*side.shape[:1], *side.shape[2:]) for side in (learner, source)]
    if learner.ndim != 4 or grids[0] != grids[1]:
        raise ValueError(
            f'{what} needs two maps (N, C, H, W) with the same N, H and W, got the '
            f"learner's {tuple(learner.shape)} and the source's {tuple(source.shape)}"
        )


def _cosines(features: Tensor, size: tuple[int, int], reference: str) -> Tensor:
    """(N, C, H, W) -> (N, R, R), R regions."""
    features = features.float() if reference == 'skd' else full_precision(features)
    regions = F.max_pool2d(features, size, ceil_mode=True).flatten(2)
    if reference == 'skd':
        regions = regions / (lengths(regions).detach() + 1e-8)
    else:
        regions = directions(regions)
    return scalar_products(regions.mT, regions.mT)
