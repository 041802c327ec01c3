"""Losses on the similarities between the samples of a batch: SP and SemCKD."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.checks import check_positive
from mmkdml.functional.feature import feature_mse
from mmkdml.functional.vectors import directions, full_precision, scalar_products


def sample_similarities(features: Tensor) -> Tensor:
    """Compute the scalar products of all pairs of samples: (N, ...) -> (N, N)."""
    flat = full_precision(features).flatten(1)
    return scalar_products(flat, flat)


def similarity_difference(learner: Tensor, source: Tensor) -> Tensor:
    """Compute the mean squared difference between the two sides' sample similarities (SP).

    Tung and Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019;
    DefangChen/SimKD:distiller_zoo/SP.py, HobbitLong/RepDistiller:distiller_zoo/SP.py. Each row of
    similarities is scaled to unit length. In distributed training each process compares its own
    images.

    Args:
        learner: (N, ...), N >= 2.
        source: (N, ...); all but N may differ.

    Returns:
        Scalar in [0, 4 / N].

    Raises:
        ValueError: If N differs or is 1.

    Example:
        >>> import torch
        >>> from mmkdml.functional import similarity_difference
        >>> learner = torch.eye(2)  # two different images
        >>> source = torch.ones(2, 3)  # two equal images, in another number of features
        >>> round(similarity_difference(learner, source).item(), 4)
        0.2929
    """
    if len(learner) != len(source) or len(learner) < 2:
        raise ValueError(
            'Invalid batch for similarity-preserving distillation: expected the same 2 or more '
            f'images of both sides, got {len(learner)} and {len(source)}. Use a larger batch_size, '
            'and drop_last=True if the last batch has a single image'
        )
    rows = [directions(sample_similarities(side), shortest=1e-12) for side in (learner, source)]
    return feature_mse(*rows)


def calibrated_error(
    queries: Tensor, keys: Tensor, errors: Tensor, softness: float = 1.0
) -> Tensor:
    """Average the errors of all pairs of layers, weighted by attention between layers (SemCKD).

    Chen et al., *Cross-Layer Distillation with Semantic Calibration*, AAAI 2021;
    DefangChen/SimKD:models/util.py (SelfA), distiller_zoo/SemCKD.py. The attention of a learner's
    layer over the source's layers is softmax(cos(query, key) / softness).

    Args:
        queries: Embeddings of the learner's S layers, (N, S, D).
        keys: Embeddings of the source's T layers, (N, T, D).
        errors: (N, S, T), non-negative.
        softness: Temperature of the attention, > 0; large values make it uniform.

    Returns:
        Scalar >= 0: the mean over N and S of the attended errors.

    Raises:
        ValueError: If the shapes do not fit or softness is not positive.
    """
    check_positive('softness', softness)
    expected = (*queries.shape[:2], keys.shape[1])
    if errors.shape != expected or queries.shape[::2] != keys.shape[::2]:
        raise ValueError(
            'Invalid inputs of SemCKD: expected queries (N, S, D), keys (N, T, D) and errors '
            f'(N, S, T), got {tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(errors.shape)}'
        )
    ends = [directions(full_precision(side), dim=2) for side in (queries, keys)]
    fits = scalar_products(*ends)
    return ((fits / softness).softmax(dim=2) * full_precision(errors)).sum(dim=2).mean()
