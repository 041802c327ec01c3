"""Double similarity distillation (DSD)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.channel import category_similarity
from mmkdml.functional.checks import check_positive
from mmkdml.functional.importance import pixel_similarity
from mmkdml.models.losses.pairs import Taps, as_list
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class PixelSimilarityLoss(TransferLoss):
    """DSD's first part, on several taps; see :func:`mmkdml.functional.pixel_similarity`.

    Weight 1000 in CIRKD, on the auxiliary head's logits, the map before the classifier, and the
    logits.
    """

    requires_same_shape = False

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Compute the loss from two or more maps (N, C, H, W) per side, in layer order."""
        return pixel_similarity(as_list(learner), as_list(source))


@MODELS.register_module()
class CategorySimilarityLoss(TransferLoss):
    """DSD's second part, on logits; see :func:`mmkdml.functional.category_similarity`.

    Weight 10 in CIRKD.

    Args:
        temperature: T > 0.

    Raises:
        ValueError: If T is not positive.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        check_positive('temperature', temperature)
        self.temperature = temperature

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the loss from logits (N, K, H, W) of both sides."""
        return category_similarity(learner, source, self.temperature)
