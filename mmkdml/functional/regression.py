"""Softmax regression representation learning (SRRL)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmkdml.functional.checks import check_at_least, check_same_shape
from mmkdml.functional.feature import feature_mse
from mmkdml.functional.vectors import full_precision

Classifier = Callable[[Tensor], Tensor]


def channel_means(features: Tensor) -> Tensor:
    """Average maps (N, C, ...) over their positions to (N, C); return vectors unchanged."""
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def softmax_regression(
    learner: Tensor, source: Tensor, classifier: Classifier, weight: float = 1.0
) -> Tensor:
    """Compare features, and the logits that the source's classifier computes from them (SRRL).

    Yang et al., *Knowledge Distillation via Softmax Regression Representation Learning*, ICLR
    2021; DefangChen/SimKD:models/util.py and helper/loops.py, jingyang2017/KD_SRRL. Maps are
    averaged to vectors first: MSE(learner, source) + weight * MSE(classifier(learner),
    classifier(source)). Gradients reach the learner through the classifier.

    Args:
        learner: Features after the connector, (N, C) or (N, C, H, W).
        source: Features (N, C) or (N, C, H', W').
        classifier: The source's classifier, (N, C) -> (N, K).
        weight: Weight of the logits' difference, >= 0.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If N or C differs, or the weight is negative.
    """
    check_at_least('weight', weight, 0)
    learner, source = (channel_means(full_precision(side)) for side in (learner, source))
    check_same_shape(learner, source, 'softmax regression')
    difference = feature_mse(classifier(learner), classifier(source))
    return feature_mse(learner, source) + weight * difference
