"""Weights by uncertainty (Kendall, Gal and Cipolla, CVPR 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmkdml.models.weighting.learned_weights import LearnedWeights, WeightedLoss
from mmkdml.modes import FEATURES
from mmkdml.registry import MODELS


@MODELS.register_module()
class UncertaintyWeighting(LearnedWeights):
    """Weight the losses of each learner by a learned uncertainty sigma_i.

    Kendall et al., Multi-task learning using uncertainty to weigh losses for scene geometry and
    semantics, CVPR 2018 (arXiv:1705.07115). With s_i = log(sigma_i^2), which the paper trains
    because it is stable, a learner minimizes ::

        sum_i c_i * exp(-s_i) * L_i + s_i / 2

    with c_i = 1/2 for regression (equation 7), here transfers of features, and c_i = 1 for
    classification (equation 10), here supervised losses and transfers of predictions. All s_i are 0
    at first. For constant losses, the minimum is at exp(s_i) = 2 * c_i * L_i, where each term is
    1/2. The total loss may be negative.

    Args:
        losses: Losses by learner; the distiller passes them.
    """

    def __init__(self, losses: Mapping[str, Sequence[WeightedLoss]]) -> None:
        super().__init__(losses)
        #: s_i of each learner, in the order of its losses.
        self.log_variances = nn.ParameterDict(
            {learner: torch.zeros(len(rows)) for learner, rows in self.losses.items()}
        )

    def weigh(
        self, learner: str, values: Sequence[Tensor], member: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return c_i * exp(-s_i), and the sum of s_i / 2."""
        variances = self.log_variances[learner]
        likelihoods = [0.5 if row.knowledge == FEATURES else 1.0 for row in self.losses[learner]]
        return variances.new_tensor(likelihoods) * torch.exp(-variances), variances.sum() / 2
