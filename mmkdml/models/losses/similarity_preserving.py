"""Similarity-preserving distillation (SP)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional import similarity_difference
from mmkdml.models.losses.pairs import Taps, paired
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class SimilarityPreservingLoss(TransferLoss):
    """Sum over pairs of taps of :func:`mmkdml.functional.similarity_difference`.

    DefangChen/SimKD takes the last map alone, with the weight 3000. There are no parameters.
    """

    requires_same_shape = False

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """One tensor (N, ...) or a list of them, of both sides, N >= 2 -> scalar."""
        return torch.stack([similarity_difference(*pair) for pair in paired(learner, source)]).sum()
