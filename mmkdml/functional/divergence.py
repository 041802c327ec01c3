"""Divergences between softened predictions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = ('learner||source', 'source||learner')
SCALES = ('none', 'temperature_squared')


def full_precision(tensor: Tensor) -> Tensor:
    """Lifts half precision to float32, in which losses are summed; leaves the rest as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_same_shape(learner: Tensor, source: Tensor, what: str) -> None:
    """Raises ``ValueError`` when the two sides of a loss differ in shape."""
    if learner.shape != source.shape:
        raise ValueError(
            f"{what} needs two tensors of one shape, got the learner's {tuple(learner.shape)} and "
            f"the source's {tuple(source.shape)}"
        )


def softened_log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Log of the class probabilities at a temperature (paper, eq. 1).

    Args:
        logits: (N, K, ...). With K = 1 it is the foreground's logit of a binary task.
        temperature: Divides the logits; above 1 it softens.

    Returns:
        (N, max(K, 2), ...): one logit z becomes the two classes (sigmoid(-z/T), sigmoid(z/T)).
    """
    logits = full_precision(logits) / temperature
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return F.log_softmax(logits, dim=1)


def prediction_kl(
    learner: Tensor,
    source: Tensor,
    temperature: float = 2.0,
    direction: str = 'learner||source',
    scale: str = 'none',
) -> Tensor:
    """Kullback-Leibler divergence between two members' softened predictions.

    Summed over the classes, averaged over samples and, for maps, pixels.

    Args:
        learner: Logits (N, K) or (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        temperature: T > 0.
        direction: ``'learner||source'`` is sum(s * log(s / p)) as printed in eq. 3 and 5 of the
            paper; ``'source||learner'`` is Hinton et al.'s (2015) sum(p * log(p / s)).
        scale: ``'none'`` as printed in the paper, or ``'temperature_squared'`` (Hinton et al.),
            which keeps the gradient's size when T changes.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes differ, T is not positive, or a name is unknown.
    """
    check_same_shape(learner, source, 'The KL divergence of predictions')
    check_kl_options(temperature, direction, scale)
    learner_log = softened_log_probabilities(learner, temperature)
    source_log = softened_log_probabilities(source, temperature)
    # F.kl_div(input, target) is D(target || input).
    if direction == 'learner||source':
        terms = F.kl_div(source_log, learner_log, reduction='none', log_target=True)
    else:
        terms = F.kl_div(learner_log, source_log, reduction='none', log_target=True)
    divergence = terms.sum(dim=1).mean()
    return divergence * temperature**2 if scale == 'temperature_squared' else divergence


def check_kl_options(temperature: float, direction: str, scale: str) -> None:
    """Raises ``ValueError`` for options of :func:`prediction_kl` that cannot be."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f'temperature must be a positive number, got {temperature}')
    for name, value, allowed in (('direction', direction, DIRECTIONS), ('scale', scale, SCALES)):
        if value not in allowed:
            raise ValueError(f'{name} must be one of {", ".join(allowed)}; got {value!r}')
