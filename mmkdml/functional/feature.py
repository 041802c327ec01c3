"""Distances between feature maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.divergence import check_same_shape, full_precision


def feature_mse(learner: Tensor, source: Tensor) -> Tensor:
    """Mean squared error over all elements of two feature maps (paper, section 3.2).

    Args:
        learner: Feature map (N, C, H, W), or any shape.
        source: Feature map of the same shape.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes differ; PyTorch's own loss would broadcast with a warning.
    """
    check_same_shape(learner, source, 'The mean squared error of features')
    return F.mse_loss(full_precision(learner), full_precision(source))
