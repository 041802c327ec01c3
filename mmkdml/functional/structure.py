"""Structured knowledge distillation (SKD): pixel-wise and pair-wise losses.

Liu et al., *Structured Knowledge Distillation for Semantic Segmentation*, CVPR 2019, and its
journal version *... for Dense Prediction*, TPAMI 2020. The third part, the holistic loss, is in
:mod:`mmkdml.functional.adversarial`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_choice, check_feature_maps, check_maps, check_mask
from mmkdml.functional.divergence import prediction_kl, softened_log_probabilities
from mmkdml.functional.vectors import directions, full_precision, lengths, scalar_products

PIXEL_WISE_REFERENCES = ('cirkd', 'skd', 'ifvd')
PAIR_WISE_REFERENCES = ('cirkd', 'skd')


def pixel_wise_divergence(
    learner: Tensor, source: Tensor, reference: str = 'cirkd', mask: Tensor | None = None
) -> Tensor:
    """Compute the divergence between class probabilities at every pixel, at temperature 1.

    Args:
        learner: Logits (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        reference: ``'cirkd'``: D(source || learner), averaged over N, H, W
            (winycg/CIRKD:losses/kd.py). ``'skd'``: cross-entropy -sum(p * log s) / (H * W), summed
            over the batch (irfanICMLL/structure_knowledge_distillation:utils/criterion.py).
            ``'ifvd'``: D(source || learner), also averaged over the classes
            (YukangWang/IFVD:utils/criterion.py).
        mask: Bool (N, H, W), False for pixels that are left out of the mean: of all pixels of the
            batch, and with ``'skd'``, instead of H * W, of those of their image. Default: all
            count, as in the references.

    Returns:
        Scalar >= 0; with ``'skd'`` at least the source's entropy. 0 if the mask is False
        everywhere.

    Raises:
        ValueError: If the shapes differ or are not maps, or the reference is unknown.
    """
    check_choice('reference', reference, PIXEL_WISE_REFERENCES)
    check_maps(learner, source, 'the pixel-wise divergence')
    check_mask(mask, learner)
    if reference == 'skd':
        source_log = softened_log_probabilities(source, temperature=1.0)
        terms = source_log.exp() * softened_log_probabilities(learner, temperature=1.0)
        if mask is None:
            return -terms.sum() / learner.shape[2:].numel()
        sums = terms.sum(dim=1).where(mask, 0).sum(dim=(1, 2))
        return -(sums / mask.sum(dim=(1, 2)).clamp_min(1)).sum()
    divergence = prediction_kl(
        learner, source, temperature=1.0, direction='source||learner', mask=mask
    )
    return divergence / max(learner.shape[1], 2) if reference == 'ifvd' else divergence


def pair_wise_difference(
    learner: Tensor, source: Tensor, reference: str = 'cirkd', scale: float = 0.5
) -> Tensor:
    """Compute the mean squared difference between the cosines of all pairs of regions.

    The vector of a region is its channel-wise maximum. Each image has (H * W / 4)^2 pairs in CIRKD
    and 16 at SKD's scale.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H, W); C' may differ from C.
        reference: ``'cirkd'``: regions of 2x2 pixels (winycg/CIRKD:losses/skd.py). ``'skd'``:
            regions of ``scale`` times the map's size, computed in float32 for all inputs, with the
            vectors' lengths as constants in the gradient
            (irfanICMLL/structure_knowledge_distillation:utils/utils.py).
        scale: In (0, 1]; only used by ``'skd'``.

    Returns:
        Scalar in [0, 4].

    Raises:
        ValueError: If N, H or W differ, the scale is out of range, or the reference is unknown.
    """
    check_choice('reference', reference, PAIR_WISE_REFERENCES)
    check_scale(scale)
    check_feature_maps(learner, source, same_size=True)
    height, width = source.shape[2:]
    size = (2, 2)
    if reference == 'skd':
        size = max(1, int(height * scale)), max(1, int(width * scale))
    difference = _cosines(learner, size, reference) - _cosines(source, size, reference)
    return difference.square().mean()


def check_scale(scale: float) -> None:
    """Raise ``ValueError`` for a region size outside (0, 1]."""
    if not 0 < scale <= 1:
        raise ValueError(f'Invalid scale: expected a value in (0, 1], got {scale}')


def _cosines(features: Tensor, size: tuple[int, int], reference: str) -> Tensor:
    """(N, C, H, W) -> (N, R, R) for R regions."""
    features = features.float() if reference == 'skd' else full_precision(features)
    regions = F.max_pool2d(features, size, ceil_mode=True).flatten(2)
    if reference == 'skd':
        regions = regions / (lengths(regions).detach() + 1e-8)
    else:
        regions = directions(regions)
    return scalar_products(regions.mT, regions.mT)
