"""Masked generative distillation (MGD)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_choice, check_feature_maps, check_same_shape
from mmkdml.functional.vectors import full_precision

MASKED = ('pixels', 'channels')


def random_mask(features: Tensor, ratio: float, masked: str = 'pixels') -> Tensor:
    """Draw which pixels or channels of each image are kept, from PyTorch's random generator.

    Args:
        features: (N, C, H, W), whose device and type the mask has.
        ratio: Probability that a pixel or channel is masked, in [0, 1).
        masked: ``'pixels'`` or ``'channels'``.

    Returns:
        Zeros (masked) and ones, (N, 1, H, W) for pixels and (N, C, 1, 1) for channels.

    Raises:
        ValueError: If an option is invalid.
    """
    check_mask(ratio, masked)
    number, channels, *size = features.shape
    shape = (number, 1, *size) if masked == 'pixels' else (number, channels, 1, 1)
    return (torch.rand(shape, device=features.device) >= ratio).to(features.dtype)


def check_mask(ratio: float, masked: str) -> None:
    """Raise ``ValueError`` for invalid options of :func:`random_mask`."""
    check_choice('masked', masked, MASKED)
    if not 0 <= ratio < 1:
        raise ValueError(f'Invalid ratio: expected a number in [0, 1), got {ratio}')


def masked_generation(
    learner: Tensor, source: Tensor, kept: Tensor, generate: Callable[[Tensor], Tensor]
) -> Tensor:
    """Generate the source's map from a masked map of the learner, and compare them (MGD).

    Yang et al., *Masked Generative Distillation*, ECCV 2022; yzd-v/MGD:
    cls/mmcls/distillation/losses/mgd.py, seg/mmseg/distillation/losses/mgd.py. The loss is the
    squared difference, summed over C, H and W and averaged over N. It therefore grows with the size
    of the map.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H, W).
        kept: Mask that is multiplied with the learner's map; see :func:`random_mask`.
        generate: Network that maps (N, C, H, W) to (N, C', H, W).

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If N, H or W differ, or the generated map has another shape than the source's.
    """
    check_feature_maps(learner, source, same_size=True)
    generated = generate(learner * kept)
    check_same_shape(generated, source, 'MGD')
    generated, source = full_precision(generated), full_precision(source)
    return F.mse_loss(generated, source, reduction='sum') / len(source)
