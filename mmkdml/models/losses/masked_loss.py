"""Base class of losses that can leave out ignored samples, pixels and padding."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.regions import labels_on
from mmkdml.models.losses.transfer_loss import TransferLoss


class MaskedLoss(TransferLoss):
    """Base of losses on predictions whose mean can leave out what the supervised loss ignores.

    Args:
        ignore_index: Label of samples or pixels that are left out, as in the supervised loss: 255
            in MMSegmentation, which also pads masks with it (``seg_pad_val``). Maps of another size
            get the labels by nearest-neighbor interpolation. Default: everything counts, padding
            included, as in the papers and their code.
    """

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.needs_truth = ignore_index is not None

    def mask_of(self, outputs: Tensor, truth: Tensor | None) -> Tensor | None:
        """Return what counts in outputs (N, K) or (N, K, h, w), (N,) or (N, h, w); None for all.

        Args:
            outputs: Logits or feature map.
            truth: Labels (N,) or (N, H, W). Only used with an ``ignore_index``.
        """
        if self.ignore_index is None or truth is None:
            return None
        labels = truth if outputs.ndim == 2 else labels_on(outputs, truth)
        return labels != self.ignore_index
