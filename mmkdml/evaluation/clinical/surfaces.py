"""Distances between the surfaces of two masks, exact at any size."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from mmkdml.optional import require

# Distances are sums of rounded products: 3 pixels of 0.1 mm are within 0.3 mm.
_ROUNDING = 1e-9


def scipy(module: str) -> ModuleType:
    """Import a module of SciPy when it is needed, because the import takes long."""
    return require(f'scipy.{module}', extra='medical', purpose='ClinicalSegmentation')


def surface_distances(
    pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distance of each surface element to the surface of the other mask.

    The surface consists of the mask's elements (pixels or voxels) with a neighbor outside of it,
    along any axis; outside of the image is outside of the mask. This is MONAI's definition. A
    nearest-neighbor search among them is exact and needs no distance transform of the volume.

    Args:
        pred: Predicted mask, bool, of any shape.
        truth: True mask, bool, of the same shape. Both contain at least one element.
        spacing: Distance between elements along each axis.

    Returns:
        Distances of the prediction's surface and of the truth's, in units of the spacing.
    """
    first, second = (_surface(mask) * np.asarray(spacing, float) for mask in (pred, truth))
    trees = map(scipy('spatial').cKDTree, (first, second))
    to_first, to_second = (tree.query for tree in trees)
    return to_second(first)[0], to_first(second)[0]


def surface_scores(distances: tuple[np.ndarray, np.ndarray], tolerance: float) -> dict[str, float]:
    """Compute the 95 % Hausdorff distance, the average distance and the surface Dice.

    Args:
        distances: Of :func:`surface_distances`.
        tolerance: Distance up to which a surface element is correct.

    Returns:
        ``HD95``, the larger of both directed 95th percentiles; ``ASD``, the mean of all distances
        in both directions; ``NSD`` in percent, the share of both surfaces within the tolerance.
    """
    both = np.concatenate(distances)
    return dict(
        HD95=float(max(np.percentile(one, 95) for one in distances)),
        ASD=float(both.mean()),
        NSD=float(100 * (both <= tolerance + _ROUNDING).mean()),
    )


def _surface(mask: np.ndarray) -> np.ndarray:
    """Return the positions of the surface elements, (P, axes)."""
    return np.argwhere(mask & ~scipy('ndimage').binary_erosion(mask))
