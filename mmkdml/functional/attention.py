"""Attention transfer (AT): spatial attention maps computed from activation magnitudes.

Zagoruyko and Komodakis, *Paying More Attention to Attention*, ICLR 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional.checks import check_at_least, check_choice
from mmkdml.functional.shapes import pooled_to_smaller
from mmkdml.functional.vectors import directions, full_precision

ATTENTION_REFERENCES = ('simkd', 'paper')

# Features whose largest magnitude is not above this count as zero.
SMALLEST = 1e-8


def attention_map(features: Tensor, exponent: float = 2.0) -> Tensor:
    """Compute the channel mean of ``|f|^exponent``, scaled to unit Euclidean norm per image.

    Args:
        features: (N, C, H, W).
        exponent: At least 1, so that the gradient at 0 is finite; 2 in AT and DSD, 4 in EMKD.

    Returns:
        (N, H, W), non-negative, unit norm per image; all 0 where the features are all 0.

    Raises:
        ValueError: If the features are not maps or the exponent is below 1.

    Example:
        >>> import torch
        >>> from mmkdml.functional import attention_map
        >>> features = torch.tensor([[[[3.0, 0.0]], [[0.0, -3.0]]]])  # two channels, 1x2 pixels
        >>> [round(value, 4) for value in attention_map(features).flatten().tolist()]
        [0.7071, 0.7071]
    """
    if features.ndim != 4:
        raise ValueError(
            'Invalid features for an attention map: expected (N, C, H, W), got '
            f'{tuple(features.shape)}'
        )
    check_at_least('exponent', exponent, 1)
    features = full_precision(features)
    # The map does not depend on the scale, but large powers of large features would overflow.
    scales = features.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = features / scales.where(scales > SMALLEST, torch.inf)
    energy = scaled.abs().pow(exponent).mean(dim=1)
    return directions(energy.flatten(1)).unflatten(1, energy.shape[1:])


def attention_difference(
    learner: Tensor, source: Tensor, exponent: float = 2.0, reference: str = 'simkd'
) -> Tensor:
    """Compute the distance between two members' attention maps (AT).

    The larger feature map is average-pooled to the size of the smaller one first.

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
        ValueError: If N differs, the features are not maps, or an option is invalid.
    """
    check_choice('reference', reference, ATTENTION_REFERENCES)
    learner, source = pooled_to_smaller(learner, source)
    difference = attention_map(learner, exponent) - attention_map(source, exponent)
    if reference == 'paper':
        return torch.linalg.vector_norm(difference.flatten(1), dim=1).mean()
    return difference.square().mean()
