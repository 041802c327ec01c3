"""Losses of a learner and a discriminator that tells its logits from the source's (SKD, holistic).

Liu et al., *Structured Knowledge Distillation for Semantic Segmentation*, CVPR 2019. What the
discriminator gives may have any shape; the means are over all elements.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.divergence import check_same_shape, full_precision

ADVERSARIES = ('hinge', 'wgan-gp')


def check_adversary(kind: str) -> None:
    """Raises ``ValueError`` for a loss that there is not."""
    if kind not in ADVERSARIES:
        raise ValueError(f'kind must be one of {", ".join(ADVERSARIES)}; got {kind!r}')


def learner_realism(on_learner: Tensor) -> Tensor:
    """What the learner minimises with both kinds: minus the mean score of its own logits."""
    return -full_precision(on_learner).mean()


def discriminator_error(on_learner: Tensor, on_source: Tensor, kind: str = 'hinge') -> Tensor:
    """What the discriminator minimises.

    Args:
        on_learner: Its scores of the learner's logits.
        on_source: Its scores of the source's logits, the same shape.
        kind: ``'hinge'``: mean(relu(1 + learner)) + mean(relu(1 - source))
            (winycg/CIRKD:losses/adv.py). ``'wgan-gp'``: mean(learner) - mean(source), to which
            :func:`gradient_penalty` belongs
            (irfanICMLL/structure_knowledge_distillation:utils/criterion.py).

    Returns:
        Scalar.

    Raises:
        ValueError: If the shapes differ, or the kind is unknown.
    """
    check_adversary(kind)
    check_same_shape(on_learner, on_source, "The discriminator's error")
    on_learner, on_source = full_precision(on_learner), full_precision(on_source)
    if kind == 'hinge':
        return F.relu(1 + on_learner).mean() + F.relu(1 - on_source).mean()
    return on_learner.mean() - on_source.mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], learner: Tensor, source: Tensor, share: Tensor
) -> Tensor:
    """How far the discriminator's slope is from 1 between the two sides (Gulrajani et al., 2017).

    mean((||grad D(x)|| - 1)^2) at x = share * source + (1 - share) * learner, the norm being that
    of one image. Neither side gets a gradient; the discriminator's parameters do.

    Args:
        discriminator: Logits -> scores; several scores per image are summed.
        learner: Logits (N, K, H, W).
        source: Logits of the same shape.
        share: The source's share in [0, 1] of each image, (N, 1, 1, 1), drawn by the caller.

    Returns:
        Scalar >= 0, without SKD's weight of 10.

    Raises:
        ValueError: If the shapes differ.
    """
    check_same_shape(learner, source, 'The gradient penalty')
    between = (share * source + (1 - share) * learner).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (torch.linalg.vector_norm(slopes.flatten(1), dim=1) - 1).square().mean()
