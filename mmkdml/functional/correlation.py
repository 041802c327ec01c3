"""Losses on Pearson correlations: DIST on class probabilities, PKD on feature maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import (
    check_at_least,
    check_feature_maps,
    check_positive,
    check_same_shape,
)
from mmkdml.functional.divergence import softened_log_probabilities
from mmkdml.functional.vectors import deviations, full_precision, lengths, standardized


def relation_difference(
    learner: Tensor, source: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """Compare class probabilities by their correlations over classes and over samples (DIST).

    Huang et al., *Knowledge Distillation from A Stronger Teacher*, NeurIPS 2022;
    hunto/image_classification_sota:lib/models/losses/dist_kd.py,
    hunto/DIST_KD:segmentation/losses/dist_kd.py. With p the softmax at temperature T as a matrix of
    one row per sample (for maps, per pixel of all images) and one column per class, and r the
    Pearson correlation: T^2 * (beta * (1 - mean r of the rows) + gamma * (1 - mean r of the
    columns)). The rows are the relations between classes, the columns those within a class.

    A row or column of equal probabilities has correlation 0 and no gradient: with a batch of one
    image (N, K) this applies to all columns. Rows of two classes have correlations of -1 or 1, and
    columns of two samples, too; these have no gradient either. In distributed training each process
    compares its own samples.

    Args:
        learner: Logits (N, K) or (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        beta: Weight of the relations between classes, >= 0.
        gamma: Weight of the relations within classes, >= 0.
        temperature: T > 0.

    Returns:
        Scalar in [0, 2 * T^2 * (beta + gamma)].

    Raises:
        ValueError: If the shapes differ or an option is invalid.
    """
    check_same_shape(learner, source, 'DIST')
    check_relations(beta, gamma, temperature)
    rows, source_rows = (
        softened_log_probabilities(side, temperature).exp().movedim(1, -1).flatten(0, -2)
        for side in (learner, source)
    )
    between, within = (1 - correlations(rows, source_rows, dim).mean() for dim in (1, 0))
    return temperature**2 * (beta * between + gamma * within)


def check_relations(beta: float, gamma: float, temperature: float) -> None:
    """Raise ``ValueError`` for invalid options of :func:`relation_difference`."""
    check_at_least('beta', beta, 0)
    check_at_least('gamma', gamma, 0)
    check_positive('temperature', temperature)


def feature_correlation(learner: Tensor, source: Tensor) -> Tensor:
    """Compute 1 - the Pearson correlation of feature maps, channel by channel (PKD).

    Cao et al., *PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient*, NeurIPS 2022; open-mmlab/mmrazor:mmrazor/models/losses/pkd_loss.py.
    Each channel is standardized over N, H and W: mean 0, and standard deviation 1 (the unbiased
    one, plus 1e-6). The loss is half the mean squared error of the results, which is 1 - r, times
    (n - 1) / n for n = N * H * W. A constant channel, e.g. a dead one behind a ReLU, becomes 0 and
    has no gradient. As in mmrazor the learner's map is resized bilinearly if the sizes differ.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C, H', W').

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: If N or C differ, or the features are not maps.
    """
    check_feature_maps(learner, source)
    learner, source = full_precision(learner), full_precision(source)
    if learner.shape[2:] != source.shape[2:]:
        learner = F.interpolate(learner, size=source.shape[2:], mode='bilinear')
    if learner.shape != source.shape:
        raise ValueError(
            'Invalid inputs of PKD: expected the same number of channels, got '
            f'{learner.shape[1]} of the learner and {source.shape[1]} of the source. Choose other '
            "taps, or match them with projector=dict(type='mmkdml.ConvProjector')"
        )
    rows, source_rows = (
        standardized(side.transpose(0, 1).flatten(1), eps=1e-6) for side in (learner, source)
    )
    return F.mse_loss(rows, source_rows) / 2


def correlations(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Compute Pearson correlations of vectors; 0 without a gradient if one of them is constant.

    Args:
        a: Vectors in the dimension ``dim``.
        b: Same shape.
        dim: The dimension of the vectors.
        eps: Added to the product of both lengths, as in DIST's code.

    Returns:
        The shape without ``dim``; values in [-1, 1].
    """
    (a, shortest_a), (b, shortest_b) = deviations(a, dim), deviations(b, dim)
    length_a, length_b = lengths(a, dim, shortest_a), lengths(b, dim, shortest_b)
    # The product of two infinite lengths would have a gradient of 0 * infinity.
    return (a / length_a * (b / (length_b + eps / length_a))).sum(dim)
