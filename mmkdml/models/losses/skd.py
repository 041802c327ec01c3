"""Structured knowledge distillation (SKD): pixel-wise and pair-wise losses."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.checks import check_choice
from mmkdml.functional.structure import (
    PAIR_WISE_REFERENCES,
    PIXEL_WISE_REFERENCES,
    check_scale,
    pair_wise_difference,
    pixel_wise_divergence,
)
from mmkdml.models.losses.masked_loss import MaskedLoss
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class PixelWiseLoss(MaskedLoss):
    """SKD's first part; see :func:`mmkdml.functional.pixel_wise_divergence`.

    Weights: 1 in CIRKD (in all its methods but DSD), 10 in SKD and IFVD, each with its reference.

    Args:
        reference: ``'cirkd'``, ``'skd'`` or ``'ifvd'``.
        ignore_index: See :class:`MaskedLoss`.

    Raises:
        ValueError: If the reference is unknown.
    """

    def __init__(self, reference: str = 'cirkd', ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)
        check_choice('reference', reference, PIXEL_WISE_REFERENCES)
        self.reference = reference

    def forward(self, learner: Tensor, source: Tensor, truth: Tensor | None = None) -> Tensor:
        """Compute the loss from logits (N, K, H, W) of both sides, and labels (N, H', W')."""
        mask = self.mask_of(learner, truth)
        return pixel_wise_divergence(learner, source, self.reference, mask)


@MODELS.register_module()
class PairWiseLoss(TransferLoss):
    """SKD's second part; see :func:`mmkdml.functional.pair_wise_difference`.

    Weights: 10 in CIRKD, on the map before the classifier; 0.5 to 10 in SKD, on the map after the
    pyramid pooling.

    Args:
        reference: ``'cirkd'`` or ``'skd'``.
        scale: Size of a region relative to the map with ``'skd'``, in (0, 1].

    Raises:
        ValueError: If the reference is unknown or the scale is out of range.
    """

    requires_same_shape = False

    def __init__(self, reference: str = 'cirkd', scale: float = 0.5) -> None:
        super().__init__()
        check_choice('reference', reference, PAIR_WISE_REFERENCES)
        check_scale(scale)
        self.reference = reference
        self.scale = scale

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the loss from maps (N, C, H, W) and (N, C', H, W)."""
        return pair_wise_difference(learner, source, self.reference, self.scale)
