"""Centred kernel alignment: how alike two layers' representations of the same images are.

Linear CKA of Kornblith et al. (2019), "Similarity of neural network representations revisited",
and the unbiased terms of Nguyen et al. (2021), "Do wide and deep networks learn the same things?",
which may be averaged over minibatches. All in float64: the terms are differences of large sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional.vectors import scalar_products

#: The least number of images of which :func:`unbiased_hsic` is defined.
FEWEST_IMAGES = 4


def centred_gram(features: Tensor) -> Tensor:
    """Scalar products of all pairs of images, after the mean image is taken off.

    Args:
        features: (N, ...); all but the first dimension are flattened, as in both papers.

    Returns:
        (N, N), float64.
    """
    flat = features.flatten(1).double()
    flat = flat - flat.mean(dim=0)
    return scalar_products(flat, flat)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear CKA of all images at once: ||A'B||^2 / (||A'A|| ||B'B||), Frobenius norms.

    It does not change when a side is rotated, reflected, shifted or scaled as a whole. With fewer
    images than features it is biased towards 1; :func:`unbiased_hsic` is not.

    Args:
        a: Features (N, ...).
        b: Features (N, ...) of the same images in the same order; other dimensions may differ.

    Returns:
        Scalar in [0, 1], float64; ``nan`` if a side is the same for all images.

    Raises:
        ValueError: If the numbers of images differ.
    """
    if len(a) != len(b):
        raise ValueError(
            f'CKA compares two representations of the same images, got {len(a)} and {len(b)}'
        )
    # <AA', BB'> is ||A'B||^2, and needs no matrix of features by features.
    ours, theirs = centred_gram(a), centred_gram(b)
    return (ours * theirs).sum() / (ours.norm() * theirs.norm())


def unbiased_hsic(a: Tensor, b: Tensor) -> Tensor:
    """HSIC_1 of Song et al. (2012) between all layers of two sides, Nguyen et al.'s eq. 3.

    Its mean over random batches is that of all images, whatever the batches' size, so the three
    terms of CKA can be averaged over batches before they are divided.

    Args:
        a: (I, N, N), a symmetric Gram matrix for each of I layers.
        b: (J, N, N), of the same N images.

    Returns:
        (I, J), in the precision of the matrices. May be negative.

    Raises:
        ValueError: If N differs or is below 4.
    """
    number = a.shape[-1]
    if number < FEWEST_IMAGES or b.shape[-1] != number:
        raise ValueError(
            f'HSIC needs two sides of the same {FEWEST_IMAGES} images or more, got {number} and '
            f'{b.shape[-1]}: use larger batches'
        )
    ours, theirs = (_without_diagonal(side) for side in (a, b))
    rows, other_rows = ours.sum(dim=2), theirs.sum(dim=2)
    traces = ours.flatten(1) @ theirs.flatten(1).mT
    means = torch.outer(rows.sum(dim=1), other_rows.sum(dim=1)) / ((number - 1) * (number - 2))
    return (traces + means - 2 / (number - 2) * rows @ other_rows.mT) / (number * (number - 3))


def _without_diagonal(matrices: Tensor) -> Tensor:
    return matrices - torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
