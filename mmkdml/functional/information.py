"""How much a learner knows of its source: variational information distillation (VID)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.divergence import check_same_shape, full_precision


def variational_information(
    mean: Tensor, source: Tensor, log_scale: Tensor, eps: float = 1e-5
) -> Tensor:
    """Negative log-likelihood of the source's features under Gaussians that the learner gives.

    Ahn et al., *Variational Information Distillation for Knowledge Transfer*, CVPR 2019, eq. 5;
    DefangChen/SimKD:distiller_zoo/VID.py, HobbitLong/RepDistiller:distiller_zoo/VID.py. A channel
    has the variance v = softplus(log_scale) + eps; the constant of the density is left out.

    Args:
        mean: What the learner expects, (N, C, ...).
        source: The source's features, the same shape.
        log_scale: (C,).
        eps: The smallest variance, > 0.

    Returns:
        Scalar: the mean of ((mean - source)^2 / v + log v) / 2; below 0 where v < 1 is right.

    Raises:
        ValueError: If the shapes do not fit, or eps is not positive.
    """
    check_same_shape(mean, source, 'Variational information distillation')
    check_eps(eps)
    if log_scale.shape != mean.shape[1:2]:
        raise ValueError(
            f'Expected one log_scale per channel of {tuple(mean.shape)}, got '
            f'{tuple(log_scale.shape)}'
        )
    variance = F.softplus(full_precision(log_scale)) + eps
    squares = (full_precision(mean) - full_precision(source)).square()
    return (squares.movedim(1, -1) / variance + variance.log()).mean() / 2


def check_eps(eps: float) -> None:
    """Raises ``ValueError`` unless it is positive."""
    if not eps > 0:
        raise ValueError(f'eps must be positive, got {eps}')
