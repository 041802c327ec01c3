"""Efficient medical segmentation distillation (EMKD): importance maps and region affinity.

Its third part, the prediction maps (weight 0.1), is
:class:`mmkdml.models.losses.PredictionKLLoss` at temperature 4, ``'source||learner'`` and
``'temperature_squared'``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional.attention import check_exponent
from mmkdml.functional.importance import importance_difference
from mmkdml.functional.regions import region_affinity
from mmkdml.models.losses.pairs import Taps, paired
from mmkdml.models.losses.region_loss import RegionLoss
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class ImportanceMapLoss(TransferLoss):
    """EMKD's IMD, summed over taps; see :func:`mmkdml.functional.importance_difference`.

    Weight 0.9, of a low and a high layer: behind the stem (stride 2), and stride 8 of a ResNet or
    16 of a U-Net.

    Args:
        exponent: At least 1.

    Raises:
        ValueError: If the exponent is below 1.
    """

    requires_same_shape = False

    def __init__(self, exponent: float = 4.0) -> None:
        super().__init__()
        check_exponent(exponent)
        self.exponent = exponent

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """One map (N, C, H, W) or a list of them, of both sides -> scalar."""
        terms = [importance_difference(*pair, self.exponent) for pair in paired(learner, source)]
        return torch.stack(terms).sum()


@MODELS.register_module()
class RegionAffinityLoss(RegionLoss):
    """EMKD's RAD, summed over taps; see :func:`mmkdml.functional.region_affinity`.

    Weight 0.9, of the same layers as :class:`ImportanceMapLoss`.

    Args:
        num_classes: See :class:`RegionLoss`.
        ignore_index: See there.
    """

    def forward(self, learner: Taps, source: Taps, truth: Tensor) -> Tensor:
        """One map (N, C, H, W) or a list of them, of both sides, classes (N, H', W') -> scalar."""
        terms = [
            region_affinity(*pair, truth, self.num_classes, self.ignore_index)
            for pair in paired(learner, source)
        ]
        return torch.stack(terms).sum()
