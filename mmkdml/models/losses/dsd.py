"""Double similarity distillation (DSD)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.channel import category_similarity, check_temperature
from mmkdml.functional.importance import pixel_similarity
from mmkdml.models.losses.pairs import Taps, listed
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class PixelSimilarityLoss(TransferLoss):
    """DSD's first part, of several taps; see :func:`mmkdml.functional.pixel_similarity`.

    Weight 1000 in CIRKD, of the auxiliary head's logits, the map before the classifier, and the
    logits.
    """

    requires_same_shape = False

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Two or more maps (N, C, H, W) of each side, in the order of the layers -> scalar."""
        return pixel_similarity(listed(learner), listed(source))


@MODELS.register_module()
class CategorySimilarityLoss(TransferLoss):
    """DSD's second part, of logits; see :func:`mmkdml.functional.category_similarity`.

    Weight 10 in CIRKD.

    Args:
        temperature: T > 0.

    Raises:
        ValueError: If T is not positive.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Logits (N, K, H, W) of both sides -> scalar."""
        return category_similarity(learner, source, self.temperature)
