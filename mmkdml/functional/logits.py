"""Losses on logits that know the classes: DKD, and the standardization of logits (LSKD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_at_least, check_labels, check_positive, check_same_shape
from mmkdml.functional.regions import labels_on
from mmkdml.functional.vectors import full_precision, standardized

# Two standardized logits are always -0.71 and 0.71.
SMALLEST_CLASSES = 3
# Label of ignored pixels in mmseg; a class of its own in classification with many classes.
IGNORED_PIXEL = 255


def decoupled_kl(
    learner: Tensor,
    source: Tensor,
    truth: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Compute the KL divergences of the true class and among the other classes (DKD).

    Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022;
    megvii-research/mdistiller:mdistiller/distillers/DKD.py. With b the probabilities of the true
    class and of all others together, and q the softmax over the other classes only:
    T^2 * (alpha * D(b_source || b_learner) + beta * D(q_source || q_learner)), averaged over
    samples and, for maps, pixels. With two classes the second divergence is 0, and the loss is
    ``alpha`` times plain distillation.

    Args:
        learner: Logits (N, K) or (N, K, H, W); K = 1 is a binary task with one logit.
        source: Logits of the same shape.
        truth: Labels (N,), or for maps (N, H', W'), which are resized to the logits by
            nearest-neighbor interpolation; integers in [0, max(K, 2)), or ``ignore_index``.
        alpha: Weight of the true class, >= 0.
        beta: Weight of the other classes, >= 0.
        temperature: T > 0.
        ignore_index: Label of samples or pixels that are excluded from the mean. Default: 255 for
            maps; none for logits (N, K), where 255 is a class.

    Returns:
        Scalar >= 0; 0 if all labels are ignored.

    Raises:
        ValueError: If the shapes do not fit, a label is out of range, or an option is invalid.
    """
    check_same_shape(learner, source, 'DKD')
    check_decoupling(alpha, beta, temperature)
    labels = labels_on(learner, truth) if learner.ndim == 4 else truth
    if labels.shape != learner.shape[:1] + learner.shape[2:]:
        raise ValueError(
            'Invalid inputs of DKD: expected logits (N, K) with labels (N,), or maps (N, K, H, W) '
            f'with labels (N, H, W), got {tuple(learner.shape)} and {tuple(truth.shape)}'
        )
    sides = [_logits_of_all_classes(side) / temperature for side in (learner, source)]
    num_classes = sides[0].shape[1]
    if ignore_index is None and learner.ndim == 4:
        ignore_index = IGNORED_PIXEL
    check_labels(labels, num_classes, ignore_index)
    counted = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        counted = labels != ignore_index
    true = labels.where(counted, 0).long().unsqueeze(1)
    (log_true, log_rest, log_others), source_logs = (_decoupled(side, true) for side in sides)
    binary = _kl_terms(torch.cat([log_true, log_rest], dim=1), torch.cat(source_logs[:2], dim=1))
    others = _kl_terms(log_others, source_logs[2])
    divergences = (alpha * binary + beta * others) * counted
    return temperature**2 * divergences.sum() / counted.sum().clamp_min(1)


def check_decoupling(alpha: float, beta: float, temperature: float) -> None:
    """Raise ``ValueError`` for invalid options of :func:`decoupled_kl`."""
    check_at_least('alpha', alpha, 0)
    check_at_least('beta', beta, 0)
    check_positive('temperature', temperature)


def standardized_logits(logits: Tensor) -> Tensor:
    """Scale the logits of each sample or pixel to mean 0 and standard deviation 1 (LSKD).

    Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024;
    sunshangquan/logit-standardization-KD:mdistiller/distillers/KD.py. A loss of standardized
    logits compares their order and relative distances, but neither shift nor scale. It divides them
    by its temperature afterwards. The standard deviation is the unbiased one, plus 1e-7.

    Args:
        logits: (N, K) or (N, K, H, W), K >= 3.

    Returns:
        Same shape; 0 without a gradient where all K logits are equal.

    Raises:
        ValueError: If K is below 3. Two standardized logits would not depend on what the network
            predicts, except for their order, and nothing could be learned from them.
    """
    if logits.ndim < 2 or logits.shape[1] < SMALLEST_CLASSES:
        raise ValueError(
            f'Invalid logits to standardize: expected (N, K) or (N, K, H, W) with K >= '
            f'{SMALLEST_CLASSES} classes, got {tuple(logits.shape)}. With two classes or one logit '
            'standardized logits are constant and have no gradient: use the loss without '
            'standardization'
        )
    return standardized(full_precision(logits), eps=1e-7)


def _logits_of_all_classes(logits: Tensor) -> Tensor:
    """(N, K, ...) -> (N, max(K, 2), ...); one logit z becomes 0 and z."""
    logits = full_precision(logits)
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def _decoupled(logits: Tensor, true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log probabilities of the true class, of the rest, and within the rest.

    Args:
        logits: (N, K, ...), K >= 2.
        true: Class indices (N, 1, ...).

    Returns:
        (N, 1, ...), (N, 1, ...) and (N, K - 1, ...).
    """
    total = logits.logsumexp(dim=1, keepdim=True)
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    places = places.view(1, -1, *[1] * (logits.ndim - 2))
    others = logits.gather(1, places + (places >= true))
    rest = others.logsumexp(dim=1, keepdim=True)
    return logits.gather(1, true) - total, rest - total, F.log_softmax(others, dim=1)


def _kl_terms(log_learner: Tensor, log_source: Tensor) -> Tensor:
    """D(source || learner) of log probabilities (N, K, ...), summed over the classes."""
    return F.kl_div(log_learner, log_source, reduction='none', log_target=True).sum(dim=1)
