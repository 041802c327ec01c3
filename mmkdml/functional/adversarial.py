"""Adversarial losses for a discriminator between learner and source logits (SKD, holistic).

Liu et al., *Structured Knowledge Distillation for Semantic Segmentation*, CVPR 2019. Scores of the
discriminator may have any shape; losses average over all elements.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_choice, check_same_shape
from mmkdml.functional.vectors import full_precision

ADVERSARIES = ('hinge', 'wgan-gp')


def learner_realism(on_learner: Tensor) -> Tensor:
    """Compute the learner's loss, the negative mean score; the same for both kinds."""
    return -full_precision(on_learner).mean()


def discriminator_error(on_learner: Tensor, on_source: Tensor, kind: str = 'hinge') -> Tensor:
    """Compute the loss that the discriminator minimizes.

    Args:
        on_learner: Scores of the learner's logits.
        on_source: Scores of the source's logits, same shape.
        kind: ``'hinge'``: mean(relu(1 + learner)) + mean(relu(1 - source))
            (winycg/CIRKD:losses/adv.py). ``'wgan-gp'``: mean(learner) - mean(source), to be used
            with :func:`gradient_penalty`
            (irfanICMLL/structure_knowledge_distillation:utils/criterion.py).

    Returns:
        Scalar.

    Raises:
        ValueError: If the shapes differ or the kind is unknown.
    """
    check_choice('kind', kind, ADVERSARIES)
    check_same_shape(on_learner, on_source, 'the discriminator loss')
    on_learner, on_source = full_precision(on_learner), full_precision(on_source)
    if kind == 'hinge':
        return F.relu(1 + on_learner).mean() + F.relu(1 - on_source).mean()
    return on_learner.mean() - on_source.mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], learner: Tensor, source: Tensor, share: Tensor
) -> Tensor:
    """Compute the gradient penalty of WGAN-GP (Gulrajani et al., 2017).

    mean((||grad D(x)|| - 1)^2) at x = share * source + (1 - share) * learner, with one norm per
    image. Only the discriminator's parameters receive gradients.

    Args:
        discriminator: Maps logits to scores; several scores per image are summed.
        learner: Logits (N, K, H, W).
        source: Logits of the same shape.
        share: Interpolation weights in [0, 1], (N, 1, 1, 1), drawn by the caller.

    Returns:
        Scalar >= 0, without SKD's weight of 10.

    Raises:
        ValueError: If the shapes differ.
    """
    check_same_shape(learner, source, 'the gradient penalty')
    between = (share * source + (1 - share) * learner).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (torch.linalg.vector_norm(slopes.flatten(1), dim=1) - 1).square().mean()
