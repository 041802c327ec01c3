"""Attention transfer (AT): where a network looks, as seen from the size of its activations.

Zagoruyko and Komodakis, *Paying More Attention to Attention*, ICLR 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional.divergence import full_precision
from mmkdml.functional.shapes import pooled_to_smaller
from mmkdml.functional.structure import check_reference
from mmkdml.functional.vectors import directions

ATTENTION_REFERENCES = ('simkd', 'paper')

# Where nothing is larger than this a map counts as zero, and looks nowhere.
SMALLEST = 1e-8


def attention_map(features: Tensor, exponent: float = 2.0) -> Tensor:
    """The mean over the channels of |f|^exponent, divided by its Euclidean length over the map.

    Args:
        features: (N, C, H, W).
        exponent: At least 1; 2 in AT and DSD, 4 in EMKD.

    Returns:
        (N, H, W), not negative, each image's of length 1; all 0 where the features are all 0.

    Raises:
        ValueError: If the features are no maps, or the exponent is below 1.
    """
    if features.ndim != 4:
        raise ValueError(f'Attention needs feature maps (N, C, H, W), got {tuple(features.shape)}')
    check_exponent(exponent)
    features = full_precision(features)
    # The map does not depend on the scale, but large powers of large features would overflow.
    scales = features.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = features / scales.where(scales > SMALLEST, torch.inf)
    energy = scaled.abs().pow(exponent).mean(dim=1)
    return directions(energy.flatten(1)).unflatten(1, energy.shape[1:])


def attention_difference(
    learner: Tensor, source: Tensor, exponent: float = 2.0, reference: str = 'simkd'
) -> Tensor:
    """Distance between the attention maps of two members (AT).

    The larger feature map is averaged to the size of the smaller one first.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H', W'); all but N may differ.
        exponent: See :func:`attention_map`.
        reference: ``'simkd'``: the mean of the squared differences over N, H and W
            (DefangChen/SimKD:distiller_zoo/AT.py; the same in HobbitLong/RepDistiller and
            winycg/CIRKD:losses/at.py). ``'paper'``: the Euclidean distance of the maps, averaged
            over N (eq. 2; yoshitomo-matsubara/torchdistill:torchdistill/losses/mid_level.py).

    Returns:
        Scalar, in [0, 2 / (H * W)] with ``'simkd'`` and in [0, sqrt(2)] with ``'paper'``.

    Raises:
        ValueError: If N differs, or see :func:`attention_map`; if the reference is unknown.
    """
    check_reference(reference, ATTENTION_REFERENCES)
    learner, source = pooled_to_smaller(learner, source)
    difference = attention_map(learner, exponent) - attention_map(source, exponent)
    if reference == 'paper':
        return torch.linalg.vector_norm(difference.flatten(1), dim=1).mean()
    return difference.square().mean()


def check_exponent(exponent: float) -> None:
    """Raises ``ValueError`` for a power whose slope at 0 is not finite."""
    if not exponent >= 1:
        raise ValueError(f'exponent must be at least 1, got {exponent}')
