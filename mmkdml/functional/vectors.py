"""Numerically safe precision, norms, directions and scalar products."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return other types unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def lengths(vectors: Tensor, dim: int = 1, shortest: float | Tensor = 1e-8) -> Tensor:
    """Compute Euclidean norms, infinite for vectors that count as zero.

    A zero vector divided by its length remains zero and receives no gradient. ``F.normalize`` and
    ``F.cosine_similarity`` divide by a tiny number instead, which yields gradients of 1e8 and more.
    Zero vectors are common behind a ReLU with few channels.

    Args:
        vectors: Any shape.
        dim: The dimension of the vectors; kept with size 1.
        shortest: Vectors that are not longer than this count as zero; one value, or one for each
            vector.

    Returns:
        Shape of ``vectors`` with size 1 in ``dim``; greater than ``shortest``.
    """
    norms = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return norms.where(norms > shortest, math.inf)


def directions(vectors: Tensor, dim: int = 1, shortest: float = 1e-8) -> Tensor:
    """Scale vectors to unit length; vectors that count as zero become 0. See :func:`lengths`."""
    return vectors / lengths(vectors, dim, shortest)


def deviations(vectors: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Subtract the mean of each vector.

    Args:
        vectors: Any shape.
        dim: The dimension of the vectors.

    Returns:
        The deviations, of the same shape, and the length up to which they are rounding errors, so
        that the vector is constant; with size 1 in ``dim``, at least 1e-8.
    """
    rounding = 32 * torch.finfo(vectors.dtype).eps
    norms = torch.linalg.vector_norm(vectors.detach(), dim=dim, keepdim=True)
    return vectors - vectors.mean(dim, keepdim=True), (rounding * norms).clamp_min(1e-8)


def standardized(vectors: Tensor, dim: int = 1, eps: float = 0.0) -> Tensor:
    """Scale vectors to mean 0 and unbiased standard deviation 1; constant vectors become 0.

    Args:
        vectors: Any shape.
        dim: The dimension of the vectors.
        eps: Added to the standard deviation, >= 0.

    Returns:
        Same shape. Constant vectors receive no gradient; see :func:`lengths`.
    """
    centered, shortest = deviations(vectors, dim)
    degrees = max(vectors.shape[dim] - 1, 1)
    return centered / (lengths(centered, dim, shortest) / math.sqrt(degrees) + eps)


def scalar_products(a: Tensor, b: Tensor) -> Tensor:
    """Compute (..., I, D) x (..., J, D) -> (..., I, J) in the precision of the vectors.

    Autocast would use float16, in which sums over large maps overflow and products of
    probabilities underflow.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.mT
