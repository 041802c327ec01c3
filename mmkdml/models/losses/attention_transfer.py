"""Attention transfer (AT)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional.attention import ATTENTION_REFERENCES, attention_difference, check_exponent
from mmkdml.functional.structure import check_reference
from mmkdml.models.losses.pairs import Taps, paired
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class AttentionTransferLoss(TransferLoss):
    """Sum over pairs of taps of :func:`mmkdml.functional.attention_difference`.

    DefangChen/SimKD takes the outputs of all stages with the weight 1000, winycg/CIRKD the map
    before the last convolution with 10000. There are no parameters, and channels and sizes may
    differ.

    Args:
        exponent: At least 1.
        reference: ``'simkd'`` (CIRKD's is the same) or ``'paper'``.

    Raises:
        ValueError: If an option is not allowed.
    """

    requires_same_shape = False

    def __init__(self, exponent: float = 2.0, reference: str = 'simkd') -> None:
        super().__init__()
        check_exponent(exponent)
        check_reference(reference, ATTENTION_REFERENCES)
        self.exponent = exponent
        self.reference = reference

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """One map (N, C, H, W) or a list of them, of both sides -> scalar."""
        terms = [
            attention_difference(*pair, self.exponent, self.reference)
            for pair in paired(learner, source)
        ]
        return torch.stack(terms).sum()
