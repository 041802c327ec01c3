"""Lengths, directions and scalar products of vectors that stay sound in the corner cases."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lengths(vectors: Tensor, dim: int = 1, shortest: float = 1e-8) -> Tensor:
    """Euclidean lengths, infinite for vectors that have no direction.

    Divided by it a zero vector stays zero and gets no gradient. Dividing by a tiny number instead,
    as ``F.normalize`` and ``F.cosine_similarity`` do, gives it a gradient of 1e8 and more; and zero
    vectors are common among the few channels behind a ReLU.

    Args:
        vectors: Any shape.
        dim: The dimension along which a vector lies; it is kept, with size 1.
        shortest: Vectors that are not longer than this count as zero.

    Returns:
        ``vectors``' shape, with size 1 in ``dim``; > ``shortest``.
    """
    norms = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return norms.where(norms > shortest, math.inf)


def directions(vectors: Tensor, dim: int = 1, shortest: float = 1e-8) -> Tensor:
    """Vectors of length 1, or 0 where there is no direction; see :func:`lengths`."""
    return vectors / lengths(vectors, dim, shortest)


def scalar_products(a: Tensor, b: Tensor) -> Tensor:
    """(..., I, D) and (..., J, D) -> (..., I, J), computed in the precision of the vectors.

    Automatic mixed precision would go to float16, which sums over a whole map overflow and products
    of probabilities underflow.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.mT
