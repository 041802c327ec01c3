"""Distillation from a stronger teacher (DIST)."""

from __future__ import annotations

from torch import Tensor

from mmkdml.functional.correlation import check_relations, relation_difference
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class DISTLoss(TransferLoss):
    """Correlations of predictions; see :func:`mmkdml.functional.relation_difference`.

    It replaces plain distillation. Weights of the code: 2 for classification (T = 1 for ImageNet, 4
    for CIFAR-100), 1 for segmentation (T = 1).

    Args:
        beta: Weight of the relations between the classes of a sample, >= 0; they have no gradient
            in a binary task.
        gamma: Weight of the relations between the samples (or pixels) within a class, >= 0.
        temperature: T > 0.

    Raises:
        ValueError: If an option is invalid.
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check_relations(beta, gamma, temperature)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the loss from logits (N, K) or (N, K, H, W) of both sides."""
        return relation_difference(learner, source, self.beta, self.gamma, self.temperature)
