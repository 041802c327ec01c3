"""Mean squared error between feature maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_same_shape
from mmkdml.functional.vectors import full_precision


def feature_mse(learner: Tensor, source: Tensor) -> Tensor:
    """Compute the mean squared error over all elements of two feature maps (paper, section 3.2).

    Args:
        learner: Feature map (N, C, H, W), or any shape.
        source: Feature map of the same shape.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes differ, where ``F.mse_loss`` would broadcast with a warning.

    Example:
        >>> import torch
        >>> from mmkdml.functional import feature_mse
        >>> feature_mse(torch.full((1, 2, 4, 4), 3.0), torch.ones(1, 2, 4, 4)).item()
        4.0
    """
    check_same_shape(learner, source, 'the mean squared error')
    return F.mse_loss(full_precision(learner), full_precision(source))
