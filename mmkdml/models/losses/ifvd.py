"""Intra-class feature variation distillation (IFVD)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.regions import intra_class_variation
from mmkdml.models.losses.region_loss import RegionLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class IntraClassVariationLoss(RegionLoss):
    """Similarity of pixels to their class; see :func:`mmkdml.functional.intra_class_variation`.

    Weights: 20 in CIRKD, on the map before the classifier; 200 in IFVD's code, 50 in its paper.
    Arguments: see :class:`RegionLoss`.
    """

    def forward(self, learner: Tensor, source: Tensor, truth: Tensor) -> Tensor:
        """Compute the loss from maps (N, C, H, W), (N, C', H, W) and labels (N, H', W')."""
        return intra_class_variation(learner, source, truth, self.num_classes, self.ignore_index)
