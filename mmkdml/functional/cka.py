"""Centered kernel alignment: similarity of two layers' representations of the same images.

Linear CKA of Kornblith et al. (2019), "Similarity of neural network representations revisited",
and the unbiased estimator of Nguyen et al. (2021), "Do wide and deep networks learn the same
things?", which can be averaged over minibatches. Gram matrices are float64, because the terms are
differences of large sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkdml.functional.vectors import scalar_products

#: The smallest number of images for which :func:`unbiased_hsic` is defined.
FEWEST_IMAGES = 4


def centered_gram(features: Tensor) -> Tensor:
    """Compute the scalar products of all pairs of images, centered on the mean image.

    Args:
        features: (N, ...); all but the first dimension are flattened, as in both papers.

    Returns:
        (N, N), float64.
    """
    flat = features.flatten(1).double()
    flat = flat - flat.mean(dim=0)
    return scalar_products(flat, flat)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Compute linear CKA over all images at once.

    ||A'B||^2 / (||A'A|| ||B'B||) with Frobenius norms. Invariant to rotation, reflection,
    translation and isotropic scaling of either side. Biased towards 1 with fewer images than
    features, unlike :func:`unbiased_hsic`.

    Args:
        a: Features (N, ...).
        b: Features (N, ...) of the same images in the same order; other dimensions may differ.

    Returns:
        Scalar in [0, 1], float64; ``nan`` if one side is constant over the images.

    Raises:
        ValueError: If the numbers of images differ.

    Example:
        >>> import torch
        >>> from mmkdml.functional import linear_cka
        >>> features = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
        >>> round(linear_cka(features, 5 * features.flip(1) + 1).item(), 6)  # rotated and scaled
        1.0
    """
    if len(a) != len(b):
        raise ValueError(
            f'Invalid inputs of CKA: expected features of the same images, got {len(a)} and '
            f'{len(b)} images'
        )
    # <AA', BB'> equals ||A'B||^2 without a matrix of features by features.
    gram_a, gram_b = centered_gram(a), centered_gram(b)
    return (gram_a * gram_b).sum() / (gram_a.norm() * gram_b.norm())


def unbiased_hsic(a: Tensor, b: Tensor) -> Tensor:
    """Compute HSIC_1 of Song et al. (2012) between all pairs of layers (Nguyen et al., eq. 3).

    Its mean over random batches of any size is its value on all images. The three terms of CKA can
    therefore be averaged over batches before the division.

    Args:
        a: (I, N, N), one symmetric Gram matrix for each of I layers.
        b: (J, N, N), of the same N images.

    Returns:
        (I, J), in the precision of the matrices. May be negative.

    Raises:
        ValueError: If N differs or is below 4.
    """
    number = a.shape[-1]
    if number < FEWEST_IMAGES or b.shape[-1] != number:
        raise ValueError(
            f'Invalid inputs of HSIC: expected the same {FEWEST_IMAGES} or more images, got '
            f'{number} and {b.shape[-1]}. Use a larger batch size'
        )
    a, b = (side - torch.diag_embed(side.diagonal(dim1=1, dim2=2)) for side in (a, b))
    rows_a, rows_b = a.sum(dim=2), b.sum(dim=2)
    traces = a.flatten(1) @ b.flatten(1).mT
    means = torch.outer(rows_a.sum(dim=1), rows_b.sum(dim=1)) / ((number - 1) * (number - 2))
    return (traces + means - 2 / (number - 2) * rows_a @ rows_b.mT) / (number * (number - 3))
