"""Channel-wise distillation (CWD)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.channel import channel_wise_kl, check_temperature
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class ChannelWiseLoss(TransferLoss):
    """Where each channel is active; see :func:`mmkdml.functional.channel_wise_kl`.

    Of logits (weight 3), or of the maps before the classifier (weight 50 in CIRKD), the learner's
    through a ``LinearProjector`` without bias; CWD's own code has batch norm and a ReLU in it
    (``ConvProjector``). CIRKD's runs have both at once.

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
        """Logits or feature maps (N, C, H, W) of both sides -> scalar."""
        return channel_wise_kl(learner, source, self.temperature)
