"""Default losses of the paper: KL divergence of predictions and MSE of features."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional import feature_mse, prediction_kl
from mmkdml.functional.divergence import check_kl_options
from mmkdml.models.losses.masked_loss import MaskedLoss
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class PredictionKLLoss(MaskedLoss):
    """KL divergence between softened predictions; see :func:`mmkdml.functional.prediction_kl`.

    The defaults follow the paper (eq. 3 and 5): D(learner || source) without T^2.

    Args:
        temperature: T > 0.
        direction: ``'learner||source'`` or ``'source||learner'``.
        scale: ``'none'`` or ``'temperature_squared'``.
        multi_label: Compare each class by the KL divergence of its sigmoid. Default: True for
            members with multi-label heads, otherwise False.
        ignore_index: See :class:`MaskedLoss`.

    Raises:
        ValueError: If T is not positive or a name is unknown.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        direction: str = 'learner||source',
        scale: str = 'none',
        multi_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(ignore_index)
        check_kl_options(temperature, direction, scale)
        self.temperature = temperature
        self.direction = direction
        self.scale = scale
        self.multi_label = multi_label

    def forward(self, learner: Tensor, source: Tensor, truth: Tensor | None = None) -> Tensor:
        """Compute the loss from logits (N, K) or (N, K, H, W) of both sides, and labels."""
        mask = self.mask_of(learner, truth)
        return prediction_kl(
            learner, source, self.temperature, self.direction, self.scale, self.multi_label, mask
        )


@MODELS.register_module()
class FeatureMSELoss(TransferLoss):
    """Mean squared error between feature maps; see :func:`mmkdml.functional.feature_mse`."""

    multi_label = True

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the loss from feature maps of the same shape."""
        return feature_mse(learner, source)
