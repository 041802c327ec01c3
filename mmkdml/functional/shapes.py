"""Maps of different sizes made comparable, and batches that are too small refused."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pooled_to(features: Tensor, size: Sequence[int]) -> Tensor:
    """Averages a map so that it is not larger than a size; adaptive average pooling.

    Args:
        features: (N, C, H, W).
        size: (H', W').

    Returns:
        (N, C, min(H, H'), min(W, W')); the map itself where nothing is larger.

    Raises:
        ValueError: If the features are no map.
    """
    if features.ndim != 4:
        raise ValueError(f'Only maps (N, C, H, W) can be pooled, got {tuple(features.shape)}')
    height, width = map(min, features.shape[2:], size)
    if features.shape[2:] == (height, width):
        return features
    return F.adaptive_avg_pool2d(features, (height, width))


def pooled_to_smaller(learner: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Averages the larger of two maps so that both have the height and width of the smaller.

    As DefangChen/SimKD and HobbitLong/RepDistiller do in all their losses of maps; they look at the
    height alone, their maps being square.

    Args:
        learner: (N, C, H, W).
        source: (N, C', H', W').

    Returns:
        (learner, source), both min(H, H') high and min(W, W') wide.

    Raises:
        ValueError: If these are no maps, or N differs.
    """
    if learner.ndim != 4 or source.ndim != 4 or len(learner) != len(source):
        raise ValueError(
            'Expected two feature maps (N, C, H, W) with the same N, got the '
            f"learner's {tuple(learner.shape)} and the source's {tuple(source.shape)}"
        )
    return pooled_to(learner, source.shape[2:]), pooled_to(source, learner.shape[2:])


def check_batch_statistics(features: Tensor, training: bool) -> None:
    """Raises ``ValueError`` where a batch norm would have one value per channel to train on."""
    if training and features.numel() == features.shape[1]:
        raise ValueError(
            f'A batch norm cannot train on one value per channel, {tuple(features.shape)}: use a '
            'batch_size of at least 2, with drop_last=True if a last batch of 1 remains'
        )
