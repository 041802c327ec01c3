"""What a source's classifier makes of a learner's features (SRRL)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmkdml.functional.divergence import check_same_shape, full_precision
from mmkdml.functional.feature import feature_mse

Classifier = Callable[[Tensor], Tensor]


def channel_means(features: Tensor) -> Tensor:
    """(N, C, ...) -> (N, C), the means over all positions; vectors stay as they are."""
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def softmax_regression(
    learner: Tensor, source: Tensor, classifier: Classifier, weight: float = 1.0
) -> Tensor:
    """Differences of features, and of what the source's classifier says of them (SRRL).

    Yang et al., *Knowledge Distillation via Softmax Regression Representation Learning*, ICLR
    2021; DefangChen/SimKD:models/util.py and helper/loops.py, jingyang2017/KD_SRRL. On vectors, to
    which maps are averaged: MSE(learner, source) + weight * MSE(classifier(learner),
    classifier(source)). The classifier hands its gradient on to the learner.

    Args:
        learner: Features after the connector, (N, C) or (N, C, H, W).
        source: Features (N, C) or (N, C, H', W').
        classifier: The source's, (N, C) -> (N, K).
        weight: Of the logits' difference, >= 0.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If N or C differs, or the weight is negative.
    """
    check_weight(weight)
    learner, source = (channel_means(full_precision(side)) for side in (learner, source))
    check_same_shape(learner, source, 'Softmax regression')
    difference = feature_mse(classifier(learner), classifier(source))
    return feature_mse(learner, source) + weight * difference


def check_weight(weight: float) -> None:
    """Raises ``ValueError`` for a weight below 0."""
    if not weight >= 0:
        raise ValueError(f'weight must be at least 0, got {weight}')
