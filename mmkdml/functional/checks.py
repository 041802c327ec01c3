"""Argument checks of the losses; all of them raise ``ValueError``."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise unless an option is one of the allowed names."""
    if value not in allowed:
        raise ValueError(f'Invalid {name}: expected one of {", ".join(allowed)}, got {value!r}')


def check_positive(name: str, value: float) -> None:
    """Raise unless an option is finite and above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f'Invalid {name}: expected a finite number above 0, got {value}')


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise unless an option is at least ``minimum``; NaN is invalid."""
    if not value >= minimum:
        raise ValueError(f'Invalid {name}: expected at least {minimum}, got {value}')


def check_fraction(name: str, value: float) -> None:
    """Raise unless an option is in [0, 1]; NaN is invalid."""
    if not 0 <= value <= 1:
        raise ValueError(f'Invalid {name}: expected a number in [0, 1], got {value}')


def check_same_shape(learner: Tensor, source: Tensor, loss: str) -> None:
    """Raise unless both inputs of a loss have the same shape."""
    if learner.shape != source.shape:
        raise ValueError(
            f"Invalid inputs of {loss}: expected the same shape, got the learner's "
            f"{tuple(learner.shape)} and the source's {tuple(source.shape)}"
        )


def check_maps(learner: Tensor, source: Tensor, loss: str) -> None:
    """Raise unless both inputs of a loss are maps of the same shape."""
    check_same_shape(learner, source, loss)
    if learner.ndim != 4:
        raise ValueError(
            f'Invalid inputs of {loss}: expected maps (N, C, H, W), got {tuple(learner.shape)}. '
            'Use PredictionKLLoss for logits (N, K)'
        )


def check_feature_maps(learner: Tensor, source: Tensor, same_size: bool = False) -> None:
    """Raise unless both are maps (N, C, H, W) with the same N, and H and W if ``same_size``."""
    compared = [side.shape[:1] + side.shape[2:] * same_size for side in (learner, source)]
    if learner.ndim != 4 or source.ndim != 4 or compared[0] != compared[1]:
        raise ValueError(
            'Invalid feature maps: expected two maps (N, C, H, W) with the same '
            f"{'N, H and W' if same_size else 'N'}, got the learner's {tuple(learner.shape)} and "
            f"the source's {tuple(source.shape)}"
        )


def check_labels(labels: Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Raise unless all labels are in [0, num_classes) or equal ``ignore_index`` (None: no label).

    Labels on a GPU are not checked, because that would synchronize the device in every step; a
    later indexing operation fails there anyway.
    """
    if not labels.is_cpu:
        return
    valid = (labels >= 0) & (labels < num_classes)
    if ignore_index is not None:
        valid |= labels == ignore_index
    if not valid.all():
        ignored = '' if ignore_index is None else f' or ignore_index={ignore_index}'
        raise ValueError(
            f'Invalid labels: expected [0, {num_classes}){ignored}, got '
            f'{labels.unique().tolist()}. Set num_classes to the number of classes'
        )


def check_mask(mask: Tensor | None, learner: Tensor) -> None:
    """Raise unless a mask is None or bool, (N,) or (N, H, W) for inputs (N, K) or (N, K, H, W)."""
    expected = learner.shape[:1] + learner.shape[2:]
    if mask is not None and (mask.dtype != torch.bool or mask.shape != expected):
        raise ValueError(
            f'Invalid mask: expected bool {tuple(expected)} for inputs {tuple(learner.shape)}, got '
            f'{mask.dtype} {tuple(mask.shape)}'
        )


def check_batch_statistics(features: Tensor, training: bool) -> None:
    """Raise if a batch norm would train on a single value per channel."""
    if training and features.numel() == features.shape[1]:
        raise ValueError(
            'Invalid input of a batch norm in training: expected more than one value per channel, '
            f'got {tuple(features.shape)}. Use a batch_size of at least 2, and drop_last=True if '
            'the last batch has a single image'
        )
