"""Structured knowledge distillation (SKD): of whole predictions, by a discriminator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmkdml.functional.adversarial import (
    check_adversary,
    discriminator_error,
    gradient_penalty,
    learner_realism,
)
from mmkdml.functional.divergence import check_same_shape, full_precision
from mmkdml.models.losses.discriminator import SelfAttentionDiscriminator
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class HolisticLoss(TransferLoss):
    """SKD's third part: a discriminator must not tell the learner's logits from the source's.

    Called, it gives the learner's side, in which the discriminator is fixed. What the discriminator
    learns by is :meth:`discriminator_loss`, which the classroom adds to its losses. The references
    give it an optimiser of its own (Adam, 4e-4, betas (0.9, 0.99) in CIRKD, CWD and IFVD; SGD,
    4e-4, momentum 0.9 in SKD), stepped after the learner's. The logits are those of before the
    learner's step, so one sum of all losses does the same; the constructor
    ``DiscriminatorOptimWrapperConstructor`` makes the optimiser.

    Weights: 0.001 for the learner and 0.1 for the discriminator in CIRKD, 0.1 for both in SKD.

    Args:
        learner_channels: The number of logits K.
        source_channels: The same.
        kind: ``'hinge'`` (CIRKD) or ``'wgan-gp'`` (SKD, IFVD, CWD).
        penalty_weight: Of ``'wgan-gp'`` alone, >= 0.
        discriminator_weight: Of what the discriminator minimises, >= 0; the learner's weight is the
            transfer's.
        width: See :class:`SelfAttentionDiscriminator`.

    Raises:
        ValueError: If the sides' channels differ, the kind is unknown, or a weight negative.
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
                'The discriminator needs logits of the same classes from both sides, got '
                f'{learner_channels} from the learner and {source_channels} from the source'
            )
        check_adversary(kind)
        weights = dict(penalty_weight=penalty_weight, discriminator_weight=discriminator_weight)
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f'{name} must be at least 0, got {weight}')
        self.kind = kind
        self.penalty_weight = penalty_weight
        self.discriminator_weight = discriminator_weight
        self.discriminator = SelfAttentionDiscriminator(learner_channels, width)

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Logits (N, K, H, W) -> what the learner minimises; the source's are only checked."""
        check_same_shape(learner, source, 'The holistic loss')
        with fixed(self.discriminator):
            return learner_realism(self.discriminator(full_precision(learner)))

    def discriminator_loss(self, learner: Tensor, source: Tensor) -> Tensor:
        """Logits (N, K, H, W) -> what the discriminator minimises; neither side gets a gradient."""
        check_same_shape(learner, source, 'The holistic loss')
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
def fixed(module: nn.Module) -> Iterator[None]:
    """What is computed meanwhile gives the module's parameters no gradient."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
