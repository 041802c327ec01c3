"""Intra-class feature variation distillation (IFVD)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.regions import intra_class_variation
from mmkdml.models.losses.region_loss import RegionLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class IntraClassVariationLoss(RegionLoss):
    """How alike pixels are to their class; see :func:`mmkdml.functional.intra_class_variation`.

    Weights: 20 in CIRKD, on the map before the classifier; 200 in the code of IFVD, 50 in its
    paper.

    Args:
        num_classes: See :class:`RegionLoss`.
        ignore_index: See there.
    """

    def forward(self, learner: Tensor, source: Tensor, truth: Tensor) -> Tensor:
        """Maps (N, C, H, W) and (N, C', H, W), classes (N, H', W') -> scalar."""
        return intra_class_variation(learner, source, truth, self.num_classes, self.ignore_index)
