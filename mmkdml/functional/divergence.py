"""KL divergence between softened predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_choice, check_mask, check_positive, check_same_shape
from mmkdml.functional.vectors import full_precision

DIRECTIONS = ('learner||source', 'source||learner')
SCALES = ('none', 'temperature_squared')


def softened_log_probabilities(
    logits: Tensor, temperature: float, multi_label: bool = False
) -> Tensor:
    """Compute log class probabilities at a temperature (paper, eq. 1).

    Args:
        logits: (N, K, ...); K = 1 is the foreground logit of a binary task.
        temperature: Divides the logits; values above 1 soften.
        multi_label: Each logit is a binary task of its own.

    Returns:
        (N, max(K, 2), ...), or (N, 2K, ...) for several labels. One logit z becomes two classes,
        sigmoid(-z/T) and sigmoid(z/T); all negative classes come first.
    """
    logits = full_precision(logits) / temperature
    if multi_label or logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return F.log_softmax(logits, dim=1)


def prediction_kl(
    learner: Tensor,
    source: Tensor,
    temperature: float = 2.0,
    direction: str = 'learner||source',
    scale: str = 'none',
    multi_label: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute the Kullback-Leibler divergence between two members' softened predictions.

    Summed over the classes; averaged over samples and, for maps, pixels.

    Args:
        learner: Logits (N, K) or (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        temperature: T > 0.
        direction: ``'learner||source'`` is sum(s * log(s / p)) as printed in eq. 3 and 5 of the
            paper; ``'source||learner'`` is sum(p * log(p / s)) of Hinton et al. (2015).
        scale: ``'none'`` as printed in the paper, or ``'temperature_squared'`` (Hinton et al.),
            which keeps the gradient's magnitude when T changes.
        multi_label: Classes do not exclude each other: sum the divergences of K Bernoulli
            distributions with the probabilities sigmoid(z/T), as the multi-label logits
            distillation of Yang et al. (2023, Multi-Label Knowledge Distillation) does.
        mask: Bool (N,) or (N, H, W), False for samples or pixels that are left out of the mean.
            Default: all count.

    Returns:
        Scalar >= 0; 0 if the mask is False everywhere.

    Raises:
        ValueError: If the shapes differ, T is not positive, or a name is unknown.

    Example:
        >>> import torch
        >>> from mmkdml.functional import prediction_kl
        >>> learner, source = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> round(prediction_kl(learner, source, temperature=1).item(), 4)
        0.4338
        >>> round(prediction_kl(learner, source, 1, direction='source||learner').item(), 4)
        0.3278
        >>> prediction_kl(source, source).item()
        0.0
    """
    check_same_shape(learner, source, 'the KL divergence')
    check_kl_options(temperature, direction, scale)
    check_mask(mask, learner)
    learner_log = softened_log_probabilities(learner, temperature, multi_label)
    source_log = softened_log_probabilities(source, temperature, multi_label)
    # F.kl_div(input, target) is D(target || input).
    if direction == 'learner||source':
        terms = F.kl_div(source_log, learner_log, reduction='none', log_target=True)
    else:
        terms = F.kl_div(learner_log, source_log, reduction='none', log_target=True)
    divergence = masked_mean(terms.sum(dim=1), mask)
    return divergence * temperature**2 if scale == 'temperature_squared' else divergence


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average the values where a mask of the same shape is True; 0 if it is False everywhere."""
    if mask is None:
        return values.mean()
    return values.where(mask, 0).sum() / mask.sum().clamp_min(1)


def check_kl_options(temperature: float, direction: str, scale: str) -> None:
    """Raise ``ValueError`` for invalid options of :func:`prediction_kl`."""
    check_positive('temperature', temperature)
    check_choice('direction', direction, DIRECTIONS)
    check_choice('scale', scale, SCALES)
