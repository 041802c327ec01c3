"""Variational information distillation (VID)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_positive, check_same_shape
from mmkdml.functional.vectors import full_precision


def variational_information(
    mean: Tensor, source: Tensor, log_scale: Tensor, eps: float = 1e-5
) -> Tensor:
    """Compute the negative log-likelihood of the source's features under the learner's Gaussians.

    Ahn et al., *Variational Information Distillation for Knowledge Transfer*, CVPR 2019, eq. 5;
    DefangChen/SimKD:distiller_zoo/VID.py, HobbitLong/RepDistiller:distiller_zoo/VID.py. Each
    channel has the variance v = softplus(log_scale) + eps. The constant of the density is omitted.

    Args:
        mean: The learner's prediction of the source's features, (N, C, ...).
        source: The source's features, same shape.
        log_scale: (C,).
        eps: The smallest variance, > 0.

    Returns:
        Scalar: the mean of ((mean - source)^2 / v + log v) / 2. It can be negative if v < 1.

    Raises:
        ValueError: If the shapes do not fit or eps is not positive.
    """
    check_same_shape(mean, source, 'variational information distillation')
    check_positive('eps', eps)
    if log_scale.shape != mean.shape[1:2]:
        raise ValueError(
            f'Invalid log_scale: expected one value per channel of {tuple(mean.shape)}, got '
            f'{tuple(log_scale.shape)}'
        )
    variance = F.softplus(full_precision(log_scale)) + eps
    squares = (full_precision(mean) - full_precision(source)).square()
    return (squares.movedim(1, -1) / variance + variance.log()).mean() / 2
