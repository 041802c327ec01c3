"""Attention transfer (AT)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.attention import ATTENTION_REFERENCES, attention_difference
from mmkdml.functional.checks import check_at_least, check_choice
from mmkdml.models.losses.pairs import Taps, sum_over_pairs
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class AttentionTransferLoss(TransferLoss):
    """Sum of :func:`mmkdml.functional.attention_difference` over pairs of taps.

    DefangChen/SimKD uses the outputs of all stages with weight 1000, winycg/CIRKD the map before
    the last convolution with weight 10000. The loss has no parameters; channels and sizes may
    differ.

    Args:
        exponent: At least 1.
        reference: ``'simkd'`` (the same as CIRKD's) or ``'paper'``.

    Raises:
        ValueError: If an option is invalid.
    """

    requires_same_shape = False

    def __init__(self, exponent: float = 2.0, reference: str = 'simkd') -> None:
        super().__init__()
        check_at_least('exponent', exponent, 1)
        check_choice('reference', reference, ATTENTION_REFERENCES)
        self.exponent = exponent
        self.reference = reference

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Compute the loss from one map (N, C, H, W) per side, or a list of them."""
        return sum_over_pairs(attention_difference, learner, source, self.exponent, self.reference)
