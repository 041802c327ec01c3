"""Variational information distillation (VID)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmkdml.functional import pooled_to_smaller, variational_information
from mmkdml.functional.checks import check_positive
from mmkdml.models.losses.pairs import Channels, Taps, check_count, paired
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


class _GaussianRegressor(nn.Module):
    """Predict a source tap from a learner tap, with a learned variance per channel."""

    def __init__(self, learner_channels: int, source_channels: int, scale: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((source_channels,), scale))
        self.regressor = nn.Sequential(
            nn.Conv2d(learner_channels, source_channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(source_channels, source_channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(source_channels, source_channels, 1, bias=False),
        )

    def forward(self, learner: Tensor, source: Tensor, eps: float) -> Tensor:
        learner, source = pooled_to_smaller(learner, source)
        return variational_information(self.regressor(learner), source, self.log_scale, eps)


@MODELS.register_module()
class VariationalInformationLoss(TransferLoss):
    """Sum of :func:`mmkdml.functional.variational_information` over pairs of taps.

    DefangChen/SimKD uses the outputs of all stages with weight 1. The larger map is average-pooled
    to the smaller. Regressors and variances are trained.

    Args:
        learner_channels: Channels of each of the learner's taps.
        source_channels: Channels of each of the source's taps.
        initial_variance: Greater than ``eps``.
        eps: The smallest variance, > 0.

    Raises:
        ValueError: If the numbers of taps differ or a variance is out of range.
    """

    requires_same_shape = False

    def __init__(
        self,
        learner_channels: Channels,
        source_channels: Channels,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_positive('eps', eps)
        if not initial_variance > eps:
            raise ValueError(
                f'Invalid initial_variance: expected more than eps={eps}, got {initial_variance}'
            )
        scale = math.log(math.expm1(initial_variance - eps))
        self.expectations = nn.ModuleList(
            _GaussianRegressor(*channels, scale)
            for channels in paired(learner_channels, source_channels)
        )
        self.eps = eps

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Compute the loss from one map (N, C, H, W) per side, or a list of them."""
        pairs = paired(learner, source)
        check_count(pairs, len(self.expectations), 'learner')
        terms = [
            expectation(*pair, self.eps)
            for expectation, pair in zip(self.expectations, pairs, strict=True)
        ]
        return torch.stack(terms).sum()
