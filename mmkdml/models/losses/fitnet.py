"""Losses of methods that compare features as they are, once a projector has made them alike."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional import feature_mse, pooled_to_smaller
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class FitNetLoss(TransferLoss):
    """FitNet's hint: mean squared error, maps of different sizes being averaged to the smaller.

    Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015; DefangChen/SimKD:distiller_zoo/
    FitNet.py. It goes with the projector ``ConvReg`` (weight 100), in one stage. With ``ConvReg``'s
    last resort the source's map is the larger one.
    """

    requires_same_shape = False

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) and (N, C, H', W') -> scalar."""
        return feature_mse(*pooled_to_smaller(learner, source))


@MODELS.register_module()
class SimKDLoss(FitNetLoss):
    """SimKD's only loss; it goes with the projector ``SimKDProjector`` and the weight 1.

    Chen et al., *Knowledge Distillation with the Reused Teacher Classifier*, CVPR 2022;
    DefangChen/SimKD:models/util.py. There is neither cross-entropy nor KL: the student answers with
    the teacher's classifier on the projected features, so it needs no truth of its own.
    """
