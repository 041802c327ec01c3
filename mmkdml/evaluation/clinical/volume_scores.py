"""Clinical measures of the masks of one case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmkdml.evaluation.clinical.surfaces import scipy, surface_distances, surface_scores


@dataclass(frozen=True)
class Conventions:
    """Conventions for undefined values; see :class:`~mmkdml.evaluation.ClinicalSegmentation`.

    Attributes:
        tolerances: Tolerance of the surface Dice for each of the K - 1 foreground classes, in units
            of the spacing.
        overlap: Share of a lesion that must be found, in [0, 1]; at least one element.
        empty: ``'skip'`` or ``'perfect'``: score of a class that neither mask contains.
        missing: ``'diagonal'`` or ``'skip'``: distance if only one mask contains the class.
    """

    tolerances: Sequence[float]
    overlap: float = 0.0
    empty: str = 'skip'
    missing: str = 'diagonal'


def volume_scores(
    pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float], conventions: Conventions
) -> list[dict[str, float]]:
    """Compute the measures of each foreground class of one case.

    Args:
        pred: Predicted classes, of type integer and shape (D, H, W) or (H, W); 0 is the background.
        truth: True classes, of the same shape.
        spacing: Distance between elements along each axis, in mm for a volume in ml.
        conventions: Treatment of empty masks, and tolerances of the K - 1 foreground classes.

    Returns:
        A dict for each of the K - 1 foreground classes with ``Dice``, ``case_IoU``, ``NSD``,
        ``volume_error`` and ``lesion_sensitivity`` in percent, ``HD95`` and ``ASD`` in units of the
        spacing, ``volume_difference`` in thousands of its cube and ``false_positives``, a number of
        lesions; NaN where undefined. ``one_sided`` is whether only one mask contains the class.
    """
    size, classes = math.prod(spacing) / 1000, len(conventions.tolerances)
    if pred.ndim == 3 and len(pred) == 1:  # every voxel of a single slice would be at its surface
        pred, truth, spacing = pred[0], truth[0], spacing[1:]
    diagonal = math.hypot(*(n * step for n, step in zip(pred.shape, spacing, strict=True)))
    boxes = [scipy('ndimage').find_objects(one, max_label=classes) for one in (pred, truth)]
    found = []
    for label, pair in enumerate(zip(*boxes, strict=True), start=1):
        # Nothing outside of the bounding box of both masks changes a value.
        occupied = [box for box in pair if box is not None]
        box = tuple(
            slice(min(one.start for one in axis), max(one.stop for one in axis))
            for axis in zip(*occupied, strict=True)
        )
        if not occupied:
            found.append(_empty_scores(conventions.empty))
            continue
        masks = pred[box] == label, truth[box] == label
        tolerance = conventions.tolerances[label - 1]
        if len(occupied) == 2:
            surfaces = surface_scores(surface_distances(*masks, spacing), tolerance)
        else:
            worst = diagonal if conventions.missing == 'diagonal' else math.nan
            surfaces = dict(HD95=worst, ASD=worst, NSD=0.0)
        regions = _region_scores(*masks, size, conventions.overlap)
        found.append({**surfaces, **regions, 'one_sided': len(occupied) == 1})
    return found


def _empty_scores(empty: str) -> dict[str, float]:
    best = math.nan if empty == 'skip' else 100.0
    scores = dict.fromkeys(('Dice', 'case_IoU', 'NSD', 'lesion_sensitivity'), best)
    errors = dict.fromkeys(('HD95', 'ASD', 'volume_error'), 0 * best)
    numbers = dict(volume_difference=0.0, false_positives=0.0, one_sided=False)
    return {**scores, **errors, **numbers}


def _region_scores(
    pred: np.ndarray, truth: np.ndarray, size: float, overlap: float
) -> dict[str, float]:
    predicted, true, both = (int(one.sum()) for one in (pred, truth, pred & truth))
    found, right = _covered(truth, pred, overlap), _covered(pred, truth, overlap)
    difference = abs(predicted - true)
    return {
        'Dice': 200 * both / (predicted + true),
        'case_IoU': 100 * both / (predicted + true - both),
        'volume_error': 100 * difference / true if true else math.nan,
        'volume_difference': difference * size,
        'lesion_sensitivity': 100 * float(found.mean()) if true else math.nan,
        'false_positives': float((~right).sum()),
    }


def _covered(lesions: np.ndarray, other: np.ndarray, overlap: float) -> np.ndarray:
    """Return for each connected component whether the other mask covers enough of it."""
    labels, number = scipy('ndimage').label(lesions, np.ones((3,) * lesions.ndim))
    sizes, hits = (
        np.bincount(labels[mask], minlength=number + 1)[1:] for mask in (lesions, lesions & other)
    )
    return (hits > 0) & (hits >= overlap * sizes)
