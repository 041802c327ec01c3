"""Pooling of feature maps to a common size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_feature_maps


def pooled_to(features: Tensor, size: Sequence[int]) -> Tensor:
    """Shrink a map to at most a given size by adaptive average pooling.

    Args:
        features: (N, C, H, W).
        size: (H', W').

    Returns:
        (N, C, min(H, H'), min(W, W')); the input itself if it is not larger.

    Raises:
        ValueError: If the features are not a map.
    """
    if features.ndim != 4:
        raise ValueError(
            f'Invalid features to pool: expected a map (N, C, H, W), got {tuple(features.shape)}'
        )
    height, width = map(min, features.shape[2:], size)
    if features.shape[2:] == (height, width):
        return features
    return F.adaptive_avg_pool2d(features, (height, width))


def pooled_to_smaller(learner: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the height and width of the smaller.

    DefangChen/SimKD and HobbitLong/RepDistiller do this in all their losses on maps. They only
    compare heights, because their maps are square.

    Args:
        learner: (N, C, H, W).
        source: (N, C', H', W').

    Returns:
        (learner, source), both of height min(H, H') and width min(W, W').

    Raises:
        ValueError: If the inputs are not maps or N differs.
    """
    check_feature_maps(learner, source)
    return pooled_to(learner, source.shape[2:]), pooled_to(source, learner.shape[2:])
