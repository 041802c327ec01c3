"""Variational information distillation (VID)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmkdml.functional import pooled_to_smaller, variational_information
from mmkdml.functional.information import check_eps
from mmkdml.models.losses.pairs import Channels, Taps, check_count, paired
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


class _Expectation(nn.Module):
    """What one tap of the learner lets expect of one of the source."""

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
    """Sum over pairs of taps of :func:`mmkdml.functional.variational_information`.

    DefangChen/SimKD takes the outputs of all stages, with the weight 1. The larger map is averaged
    to the smaller. Both the regressors and the variances learn.

    Args:
        learner_channels: Of each of the learner's taps.
        source_channels: Of each of the source's taps.
        initial_variance: Above ``eps``.
        eps: The smallest variance, > 0.

    Raises:
        ValueError: If the numbers of taps differ, or a variance is out of range.
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
        check_eps(eps)
        if not initial_variance > eps:
            raise ValueError(f'initial_variance must be above eps = {eps}, got {initial_variance}')
        scale = math.log(math.expm1(initial_variance - eps))
        self.expectations = nn.ModuleList(
            _Expectation(*channels, scale) for channels in paired(learner_channels, source_channels)
        )
        self.eps = eps

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """One map (N, C, H, W) or a list of them, of both sides -> scalar."""
        pairs = paired(learner, source)
        check_count(pairs, len(self.expectations), 'learner')
        terms = [
            expectation(*pair, self.eps)
            for expectation, pair in zip(self.expectations, pairs, strict=True)
        ]
        return torch.stack(terms).sum()
