"""Default loss on the predictions of one-stage detectors."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.checks import check_at_least
from mmkdml.functional.detection import check_box_options, detection_divergence
from mmkdml.functional.divergence import check_kl_options
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class DetectionPredictionLoss(TransferLoss):
    """Divergence of classes and boxes; see :func:`mmkdml.functional.detection_divergence`.

    Args:
        num_classes: K. Inferred from the learner.
        temperature: T > 0 of the class logits.
        direction: ``'learner||source'`` or ``'source||learner'``, of the classes.
        scale: ``'none'`` or ``'temperature_squared'``, of the classes.
        box_weight: Weight of the boxes relative to the classes, >= 0.
        box_loss: ``'giou'``, ``'distribution'`` (only GFL), or ``'auto'``, which is
            ``'distribution'`` for GFL, otherwise ``'giou'``.
        box_temperature: T > 0 of the distributions.

    Raises:
        ValueError: If an option is invalid.
    """

    requires_same_shape = False  # the function explains which heads fit
    for_detection = True

    def __init__(
        self,
        num_classes: int,
        temperature: float = 2.0,
        direction: str = 'learner||source',
        scale: str = 'none',
        box_weight: float = 1.0,
        box_loss: str = 'auto',
        box_temperature: float = 10.0,
    ) -> None:
        super().__init__()
        check_at_least('num_classes', num_classes, 1)
        check_kl_options(temperature, direction, scale)
        check_box_options(box_weight, box_loss, box_temperature)
        self.num_classes = num_classes
        self.temperature = temperature
        self.direction = direction
        self.scale = scale
        self.box_weight = box_weight
        self.box_loss = box_loss
        self.box_temperature = box_temperature

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the loss from the predictions (N, K + 4 + D, P) of both sides."""
        return detection_divergence(
            learner,
            source,
            self.num_classes,
            self.temperature,
            self.direction,
            self.scale,
            self.box_weight,
            self.box_loss,
            self.box_temperature,
        )
