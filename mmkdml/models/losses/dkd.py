"""Decoupled knowledge distillation (DKD)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.logits import check_decoupling, decoupled_kl
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class DKDLoss(TransferLoss):
    """KL divergences of the true class and among the others.

    See :func:`mmkdml.functional.decoupled_kl`. The loss replaces plain distillation, with weight 1.
    The defaults are those of mdistiller for CIFAR-100; for ImageNet it uses T = 1 and ``beta`` 0.5
    (ResNet34 to 18) or 2 (ResNet50 to MobileNet). mdistiller increases the weight linearly in the
    first 20 epochs, or uses it from the start (ImageNet). With two classes the loss is ``alpha``
    times plain distillation, and ``beta`` has no effect.

    Args:
        alpha: Weight of the true class, >= 0.
        beta: Weight of the other classes, >= 0.
        temperature: T > 0.
        ignore_index: Label of ignored samples or pixels. Default: 255 for maps, otherwise none.

    Raises:
        ValueError: If an option is invalid.
    """

    needs_truth = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        check_decoupling(alpha, beta, temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.ignore_index = ignore_index

    def forward(self, learner: Tensor, source: Tensor, truth: Tensor) -> Tensor:
        """Compute the loss from logits (N, K) and labels (N,), or maps and labels (N, H, W)."""
        return decoupled_kl(
            learner, source, truth, self.alpha, self.beta, self.temperature, self.ignore_index
        )
