"""Efficient medical segmentation distillation (EMKD): importance maps and region affinity.

Its third part, the prediction maps (weight 0.1), is
:class:`mmkdml.models.losses.PredictionKLLoss` with temperature 4, ``'source||learner'`` and
``'temperature_squared'``.
"""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.checks import check_at_least
from mmkdml.functional.importance import importance_difference
from mmkdml.functional.regions import region_affinity
from mmkdml.models.losses.pairs import Taps, sum_over_pairs
from mmkdml.models.losses.region_loss import RegionLoss
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class ImportanceMapLoss(TransferLoss):
    """Sum of EMKD's IMD over pairs of taps; see :func:`mmkdml.functional.importance_difference`.

    Weight 0.9, on a low and a high layer: after the stem (stride 2), and at stride 8 of a ResNet or
    16 of a U-Net.

    Args:
        exponent: At least 1.

    Raises:
        ValueError: If the exponent is below 1.
    """

    requires_same_shape = False

    def __init__(self, exponent: float = 4.0) -> None:
        super().__init__()
        check_at_least('exponent', exponent, 1)
        self.exponent = exponent

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Compute the loss from one map (N, C, H, W) per side, or a list of them."""
        return sum_over_pairs(importance_difference, learner, source, self.exponent)


@MODELS.register_module()
class RegionAffinityLoss(RegionLoss):
    """Sum of EMKD's RAD over pairs of taps; see :func:`mmkdml.functional.region_affinity`.

    Weight 0.9, on the same layers as :class:`ImportanceMapLoss`. Arguments: see
    :class:`RegionLoss`.
    """

    def forward(self, learner: Taps, source: Taps, truth: Tensor) -> Tensor:
        """Compute the loss from one map (N, C, H, W) or a list per side, and labels (N, H', W')."""
        return sum_over_pairs(
            region_affinity, learner, source, truth, self.num_classes, self.ignore_index
        )
