"""Mean squared errors between projected features: FitNet and SimKD."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional import feature_mse, pooled_to_smaller
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class FitNetLoss(TransferLoss):
    """FitNet's hint loss: mean squared error after pooling the larger map to the smaller.

    Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015; DefangChen/SimKD:distiller_zoo/
    FitNet.py. Use it with the projector ``ConvReg`` and weight 100, in a single training stage.
    After ``ConvReg`` only a source map that is larger than the learner's is pooled.
    """

    requires_same_shape = False

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the loss from feature maps (N, C, H, W) and (N, C, H', W')."""
        return feature_mse(*pooled_to_smaller(learner, source))


@MODELS.register_module()
class SimKDLoss(FitNetLoss):
    """SimKD's only loss; use it with the projector ``SimKDProjector`` and weight 1.

    Chen et al., *Knowledge Distillation with the Reused Teacher Classifier*, CVPR 2022;
    DefangChen/SimKD:models/util.py. SimKD has neither cross-entropy nor KL divergence. The student
    predicts with the teacher's classifier on the projected features and needs no labels.
    """
