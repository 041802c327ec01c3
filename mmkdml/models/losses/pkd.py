"""Distillation by the Pearson correlation of feature maps (PKD)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.correlation import feature_correlation
from mmkdml.models.losses.pairs import Taps, sum_over_pairs
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class PKDLoss(TransferLoss):
    """Sum of :func:`mmkdml.functional.feature_correlation` over pairs of taps.

    mmrazor uses the four levels of a feature pyramid with weight 6 (two-stage detectors) or 10
    (one-stage). The maps of a pair need the same number of channels; sizes may differ. The loss has
    no parameters.
    """

    requires_same_shape = False

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Compute the loss from one map (N, C, H, W) per side, or a list of them."""
        return sum_over_pairs(feature_correlation, learner, source)
