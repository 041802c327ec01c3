"""Holistic (adversarial) part of structured knowledge distillation (SKD)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmkdml.functional.adversarial import (
    ADVERSARIES,
    discriminator_error,
    gradient_penalty,
    learner_realism,
)
from mmkdml.functional.checks import check_at_least, check_choice, check_same_shape
from mmkdml.functional.vectors import full_precision
from mmkdml.models.losses.discriminator import SelfAttentionDiscriminator
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class HolisticLoss(TransferLoss):
    """SKD's third part: adversarial loss with a discriminator between the two sides' logits.

    Calling the module computes the learner's loss with a frozen discriminator. The discriminator's
    own loss is :meth:`discriminator_loss`, which the distiller adds to its losses. The references
    train it with an optimizer of its own (Adam, 4e-4, betas (0.9, 0.99) in CIRKD, CWD and IFVD;
    SGD, 4e-4, momentum 0.9 in SKD) that steps after the learner's. It sees the logits from before
    the learner's step, so one backward pass of the sum of all losses is equivalent.
    ``DiscriminatorOptimWrapperConstructor`` builds the optimizer.

    Weights: 0.001 for the learner and 0.1 for the discriminator in CIRKD, 0.1 for both in SKD.

    Args:
        learner_channels: The number of logits K.
        source_channels: The same number.
        kind: ``'hinge'`` (CIRKD) or ``'wgan-gp'`` (SKD, IFVD, CWD).
        penalty_weight: Weight of the gradient penalty, >= 0; only used by ``'wgan-gp'``.
        discriminator_weight: Weight of the discriminator's loss, >= 0; the learner's weight is that
            of the transfer.
        width: See :class:`SelfAttentionDiscriminator`.

    Raises:
        ValueError: If the sides' channels differ, the kind is unknown, or a weight is negative.
    """

    def __init__(
        self,
        learner_channels: int,
        source_channels: int,
        kind: str = 'hinge',
        penalty_weight: float = 10.0,
        discriminator_weight: float = 0.1,
        width: int = 64,
    ) -> None:
        super().__init__()
        if learner_channels != source_channels:
            raise ValueError(
                'Invalid channels for the holistic loss: expected logits of the same classes, got '
                f'{learner_channels} from the learner and {source_channels} from the source'
            )
        check_choice('kind', kind, ADVERSARIES)
        check_at_least('penalty_weight', penalty_weight, 0)
        check_at_least('discriminator_weight', discriminator_weight, 0)
        self.kind = kind
        self.penalty_weight = penalty_weight
        self.discriminator_weight = discriminator_weight
        self.discriminator = SelfAttentionDiscriminator(learner_channels, width)

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the learner's loss from logits (N, K, H, W); only checks the source's shape."""
        check_same_shape(learner, source, 'the holistic loss')
        with frozen(self.discriminator):
            return learner_realism(self.discriminator(full_precision(learner)))

    def discriminator_loss(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the discriminator's loss from logits (N, K, H, W), which get no gradient."""
        check_same_shape(learner, source, 'the holistic loss')
        learner, source = (full_precision(side).detach() for side in (learner, source))
        error = discriminator_error(
            self.discriminator(learner), self.discriminator(source), self.kind
        )
        if self.kind == 'hinge':
            return error
        share = torch.rand(len(learner), 1, 1, 1, device=learner.device, dtype=learner.dtype)
        penalty = gradient_penalty(self.discriminator, learner, source, share)
        return error + self.penalty_weight * penalty


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Set ``requires_grad`` of a module's parameters to False in the context."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
