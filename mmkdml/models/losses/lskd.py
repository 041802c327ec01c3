"""Logit standardization (LSKD) in front of any loss on logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmkdml.functional.logits import standardized_logits
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.models.losses.transfer_losses import PredictionKLLoss
from mmkdml.registry import MODELS, build_with_inferred

# Of the inner loss; see TransferLoss.
ATTRIBUTES = ('requires_same_shape', 'projects_channels', 'needs_truth', 'needs_source_classifier')


@MODELS.register_module()
class LSKDLoss(TransferLoss):
    """Another loss on the standardized logits of both sides.

    See :func:`mmkdml.functional.standardized_logits`. The temperature of the inner loss is the base
    temperature, and its ground truth is passed on. Weights of the code: 9 with plain distillation
    at T = 2 (the default); DKD at T = 2 with its ``alpha`` and ``beta`` times 9.

    Args:
        loss: Config or module of the loss on logits, of a task with at least 3 classes. Default:
            ``PredictionKLLoss`` with T = 2, ``'source||learner'`` and ``'temperature_squared'``.
        learner_channels: The learner's number of logits, for losses that need it.
        source_channels: The source's number of logits, for losses that need it.
        num_classes: Number of classes, for losses that need it.

    Raises:
        ValueError: If the inner loss is invalid or trains a discriminator.
    """

    def __init__(
        self,
        loss: Any = None,
        learner_channels: int | None = None,
        source_channels: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if loss is None:
            loss = PredictionKLLoss(2.0, 'source||learner', 'temperature_squared')
        inner = build_with_inferred(
            loss,
            learner_channels=learner_channels,
            source_channels=source_channels,
            num_classes=num_classes,
        )
        if not isinstance(inner, nn.Module) or hasattr(inner, 'discriminator_loss'):
            raise ValueError(
                'Invalid loss of LSKDLoss: expected the config or module of a loss on logits '
                f'without a discriminator, got {loss!r}'
            )
        self.loss = inner
        for name in ATTRIBUTES:
            setattr(self, name, getattr(self.loss, name, getattr(TransferLoss, name)))

    def forward(self, learner: Tensor, source: Tensor, *extra_loss_inputs: Any) -> Tensor:
        """Compute the inner loss from logits (N, K) or (N, K, H, W) of both sides.

        Args:
            learner: The learner's logits.
            source: The source's logits.
            *extra_loss_inputs: Further inputs of the inner loss, e.g. labels.

        Raises:
            ValueError: If the inputs are not logits of at least 3 classes.
        """
        if not (isinstance(learner, Tensor) and isinstance(source, Tensor)):
            raise ValueError(
                'Invalid inputs of LSKDLoss: expected logits, got several taps. Use '
                "knowledge='predictions'"
            )
        sides = (standardized_logits(side) for side in (learner, source))
        return self.loss(*sides, *extra_loss_inputs)

    def extra_repr(self) -> str:
        """Return nothing, because the inner loss prints its own options."""
        return ''
