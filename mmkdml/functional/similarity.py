"""What a network makes of the images of a batch relative to each other: SP and SemCKD."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.divergence import full_precision
from mmkdml.functional.feature import feature_mse
from mmkdml.functional.vectors import directions, scalar_products


def sample_similarities(features: Tensor) -> Tensor:
    """Scalar products of all pairs of samples: (N, ...) -> (N, N), in full precision."""
    flat = full_precision(features).flatten(1)
    return scalar_products(flat, flat)


def similarity_difference(learner: Tensor, source: Tensor) -> Tensor:
    """Mean squared difference between the two sides' similarities of the samples (SP).

    Tung and Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019;
    DefangChen/SimKD:distiller_zoo/SP.py, HobbitLong/RepDistiller:distiller_zoo/SP.py. A row of
    similarities has length 1. With several processes each compares its own images.

    Args:
        learner: (N, ...), N >= 2.
        source: (N, ...); all but N may differ.

    Returns:
        Scalar in [0, 4 / N].

    Raises:
        ValueError: If N differs, or is 1.
    """
    if len(learner) != len(source) or len(learner) < 2:
        raise ValueError(
            'Similarity-preserving distillation compares the images of a batch with each other and '
            f'needs at least 2 of both sides, got {len(learner)} and {len(source)}: use a larger '
            'batch_size, with drop_last=True if a last batch of 1 remains'
        )
    rows = [directions(sample_similarities(side), shortest=1e-12) for side in (learner, source)]
    return feature_mse(*rows)


def calibrated_error(
    queries: Tensor, keys: Tensor, errors: Tensor, softness: float = 1.0
) -> Tensor:
    """Errors of all pairs of layers, weighted by how well the layers fit each other (SemCKD).

    Chen et al., *Cross-Layer Distillation with Semantic Calibration*, AAAI 2021;
    DefangChen/SimKD:models/util.py (SelfA), distiller_zoo/SemCKD.py. Each learner's layer shares
    its attention among the source's layers: softmax(cos(query, key) / softness).

    Args:
        queries: Of the learner's S layers, (N, S, D).
        keys: Of the source's T layers, (N, T, D).
        errors: (N, S, T), at least 0.
        softness: Above 0; large makes the shares equal.

    Returns:
        Scalar >= 0: the mean over N and S of the attended errors.

    Raises:
        ValueError: If the shapes do not fit, or softness is not positive.
    """
    check_softness(softness)
    expected = (*queries.shape[:2], keys.shape[1])
    if errors.shape != expected or queries.shape[::2] != keys.shape[::2]:
        raise ValueError(
            'Expected queries (N, S, D), keys (N, T, D) and errors (N, S, T), got '
            f'{tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(errors.shape)}'
        )
    ends = [directions(full_precision(side), dim=2) for side in (queries, keys)]
    fits = scalar_products(*ends)
    return ((fits / softness).softmax(dim=2) * full_precision(errors)).sum(dim=2).mean()


def check_softness(softness: float) -> None:
    """Raises ``ValueError`` unless it is positive."""
    if not softness > 0:
        raise ValueError(f'softness must be positive, got {softness}')
