"""Counts and sums of each image of a batch, on the device of the predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from mmkdml.evaluation.batches.sharing import shared

#: Predictions that are processed at once.
_CHUNK, _CHUNK_OF_ACCELERATOR = 1 << 17, 1 << 23
_LARGE = 1 << 12
#: Neighbors are counted in separate histograms, because a core waits for its last write to a bin.
_LANES = 4  # a power of 2
#: Confidences are summed as integers in units of 2^-32, exactly and in any order.
_UNIT = 1 << 32
#: Lower bound of probabilities, about the resolution of float32 at 1.
LEAST_PROBABILITY = 1e-7


@shared
def confusion_counts(
    labels: Sequence[Tensor], number: int, ignore_index: int | None = None
) -> np.ndarray:
    """Count the pairs of labels in each image.

    Args:
        labels: Two sides, each (N, M), integer: rows and columns of the result.
        number: K, the number of classes.
        ignore_index: Label of the first side that is not counted.

    Returns:
        (N, K, K), int64.

    Raises:
        ValueError: If a label is not one of the K classes.
    """
    rows, columns = labels
    low, high = _range([rows])
    some_ignored = ignore_index is not None and low <= ignore_index <= high
    ignored = rows == ignore_index if some_ignored else None
    for side in labels:
        low, high = _range([side])
        if low < 0 or high >= number:
            wrong = (side < 0) | (side.long() >= number)
            found = side[wrong if ignored is None else wrong & ~ignored].unique().tolist()
            if found:
                raise ValueError(f'Invalid labels: expected classes in [0, {number}), got {found}')
    cells = number**2
    if cells > 255:
        rows, columns = rows.long(), columns.long()
    pairs = torch.add(columns, rows, alpha=number)
    if ignored is not None:
        pairs.mul_(~ignored).add_(ignored, alpha=cells)
    return row_counts(pairs, cells + 1)[:, :-1].reshape(-1, number, number).cpu().numpy()


@shared
def _range(labels: Sequence[Tensor]) -> tuple[int, int]:
    low, high = map(int, labels[0].aminmax())
    return low, high


def equal_to(labels: Tensor, index: int) -> Tensor:
    """Return which labels are the index; PyTorch compares uint8 with the index modulo 256."""
    if labels.dtype == torch.uint8 and not 0 <= index <= 255:
        return torch.zeros_like(labels, dtype=torch.bool)
    return labels == index


def row_counts(cells: Tensor, number: int) -> Tensor:
    """Compute a histogram of each row.

    Args:
        cells: (N, M), integers from 0 to ``number`` - 1.
        number: Number of bins.

    Returns:
        (N, number), int64.
    """
    if cells.shape[1] >= _LARGE:  # faster without a copy as long integers
        return torch.stack([torch.bincount(row, minlength=number) for row in cells])
    first = torch.arange(len(cells), device=cells.device)[:, None] * number
    counts = torch.bincount((cells + first).flatten(), minlength=len(cells) * number)
    return counts.reshape(-1, number)


def reliability_counts(
    labels: Sequence[Tensor],
    probabilities: Sequence[Tensor],
    truth: Tensor,
    regions: Tensor,
    bins: int,
) -> np.ndarray:
    """Count predictions, confidences and correct predictions by confidence in each image.

    Args:
        labels: Predicted classes of S members, each (N, M).
        probabilities: Of each member, see
            :meth:`~mmkdml.evaluation.batches.batch.Batch.probabilities`.
        truth: True classes, (N, M).
        regions: Region of each prediction: 0, 1 or 2, (N, M), uint8.
        bins: Number of bins, see :func:`binned`.

    Returns:
        (S, N, 3, 3, bins), float64: by member, image and region, see :func:`binned`.
    """
    found = []
    for chunk in _chunks(truth):
        first = first_cells(regions[chunk], bins)
        sides = [(own[chunk], some[chunk]) for own, some in zip(labels, probabilities, strict=True)]
        found.append(
            torch.stack(
                [binned(_confidences(*one), one[0] == truth[chunk], first, bins) for one in sides]
            )
        )
    return torch.cat(found, dim=1).cpu().numpy()


def first_cells(regions: Tensor, bins: int) -> Tensor:
    """Return the place of each prediction's bins in the histogram of :func:`binned`.

    Args:
        regions: Region of each prediction: 0, 1 or 2, (N, M), uint8.
        bins: Number of bins.

    Returns:
        (N, M), int32. Axes of the histogram: image, lane, region, whether it is correct, bin.
    """
    images, number = (
        torch.arange(size, dtype=torch.int32, device=regions.device) for size in regions.shape
    )
    lanes = (images[:, None] * _LANES + (number & (_LANES - 1))).mul_(6 * bins)
    return lanes.add_(regions, alpha=2 * bins)


def binned(confidences: Tensor, right: Tensor, first: Tensor, bins: int) -> Tensor:
    """Count predictions, confidences and correct predictions by confidence.

    Bins are [low, high), as in torchmetrics; the last one includes 1. Sums are ``nan`` for images
    with a confidence that is NaN.

    Args:
        confidences: In [0, 1], (N, M), floating point; overwritten.
        right: Which predictions are correct, (N, M), bool.
        first: See :func:`first_cells`.
        bins: Number of bins of equal width in [0, 1].

    Returns:
        (N, 3, 3, bins), float64, on the same device: in each region the numbers of predictions, the
        sums of their confidences, and the numbers of correct ones.
    """
    shape = (len(right), _LANES, 3, 2, bins)
    # In float64, float32 confidences are never rounded across an edge.
    place = (confidences.double() * bins).int().clamp_(0, bins - 1)
    place = place.add_(right, alpha=bins).add_(first).flatten()
    counts = torch.bincount(place, minlength=math.prod(shape))
    diverged = confidences.sum(1).isnan()
    units = confidences.mul_(_UNIT).long().flatten()
    sums = torch.zeros_like(counts).scatter_add_(0, place.long(), units)
    counts, sums = (one.reshape(shape).sum(1).double() for one in (counts, sums))
    sums[diverged] = torch.nan
    return torch.stack([counts.sum(2), sums.sum(2) / _UNIT, counts[:, :, 1]], dim=2)


def divergence_sums(target: Tensor, predicted: Sequence[Tensor]) -> np.ndarray:
    """Sum the KL divergences D(target || predicted) over the predictions of each image.

    Args:
        target: Class probabilities, see
            :meth:`~mmkdml.evaluation.batches.batch.Batch.probabilities`; clamped to at least
            :data:`LEAST_PROBABILITY`.
        predicted: Those of S members.

    Returns:
        (S, N), in nats, float64.
    """
    found = []
    for chunk in _chunks(target[:, 0]):
        p = _positive(target[chunk])
        sums = []
        for one in predicted:
            terms = [
                (mine / its).log_().mul_(mine)
                for mine, its in zip(p, _positive(one[chunk]), strict=True)
            ]
            sums.append(reduce(Tensor.add_, terms).sum(1, dtype=torch.float64))
        found.append(torch.stack(sums))
    return torch.cat(found, dim=1).cpu().numpy()


def _chunks(labels: Tensor) -> Iterator[slice]:
    """Divide the images of labels (N, M), so that temporary values stay in a CPU's cache."""
    size = _CHUNK if labels.device.type == 'cpu' else _CHUNK_OF_ACCELERATOR
    images = max(1, size // max(1, labels.shape[1]))
    for start in range(0, len(labels), images):
        yield slice(start, start + images)


def _confidences(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Return the probabilities of the predicted classes, (N, M)."""
    if probabilities.shape[1] <= 2:  # p or 1 - p; several times faster than gather
        return labels.to(probabilities.dtype).sub_(1).add_(probabilities[:, -1]).abs_()
    return probabilities.gather(1, labels.long()[:, None]).squeeze(1)


def _positive(probabilities: Tensor) -> tuple[Tensor, ...]:
    """Return the clamped and normalized probabilities of all K >= 2 classes, each (N, M)."""
    least = LEAST_PROBABILITY
    if probabilities.shape[1] == 1:
        present = probabilities[:, 0]
        return (1 - present).clamp_(min=least), present.clamp(min=least)
    clamped = probabilities.clamp(min=least)
    if probabilities.shape[1] > 2 or probabilities.dtype != torch.float32:
        clamped = clamped / clamped.sum(1, keepdim=True)  # otherwise 1 within the resolution
    return clamped.unbind(1)
