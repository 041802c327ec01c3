import torch.nn.functional as F

from mmkdml.models import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class HuberFeatureLoss(TransferLoss):
    """Mean Huber loss between feature maps of the same shape."""

    def __init__(self, delta=1.0):
        super().__init__()
        self.delta = delta

    def forward(self, learner, source):
        return F.huber_loss(learner, source, delta=self.delta)
