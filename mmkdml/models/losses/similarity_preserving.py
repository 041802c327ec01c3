"""Similarity-preserving distillation (SP)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional import similarity_difference
from mmkdml.models.losses.pairs import Taps, sum_over_pairs
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class SimilarityPreservingLoss(TransferLoss):
    """Sum of :func:`mmkdml.functional.similarity_difference` over pairs of taps.

    DefangChen/SimKD uses only the last map, with weight 3000. The loss has no parameters.
    """

    requires_same_shape = False

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Compute the loss from one tensor (N, ...) per side, or a list of them; N >= 2."""
        return sum_over_pairs(similarity_difference, learner, source)
