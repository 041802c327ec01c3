"""Conversion of a volume's intensities to 8 bits in chunks, which bounds the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

#: Voxels that are read at a time.
CHUNK = 2**22
# Volumes up to this size are kept while they are windowed; larger ones are read several times.
_KEPT = 2**26
# Percentiles of the voxels that become black and white where no window is known.
_DARKEST, _BRIGHTEST = 0.5, 99.5
_LARGEST = float(np.finfo(np.float32).max)  # of a voxel

Chunks = Callable[[], Iterable[np.ndarray]]
"""Reads the voxels from the start: float32 arrays of one dimension, about :data:`CHUNK` long."""


def windowed(
    chunks: Chunks, number: int, window: tuple[float, float] | None, source: str | Path
) -> np.ndarray:
    """Scale intensities from the window's black to its white; a volume of one value is black.

    Args:
        chunks: Called for each pass over the voxels.
        number: Number of voxels, N.
        window: Black and white, or None for the 0.5th and 99.5th percentile.
        source: File, for messages.

    Returns:
        (N,), uint8.

    Raises:
        ValueError: If voxels are not finite, or the window is empty or too wide.
    """
    if number <= _KEPT:
        kept = list(chunks())
        chunks = lambda: kept  # noqa: E731
    if window is None:
        low, high = percentiles(chunks, (_DARKEST, _BRIGHTEST), source)
    else:
        low, high = map(float, window)
        if low >= high:
            raise ValueError(
                'a window goes from a lower to a higher intensity, got {} to {}'.format(*window)
            )
    if max(-low, high, high - low) > _LARGEST:
        raise ValueError(
            f'{source}: black and white must be within {_LARGEST:g} of 0 and of each other, got '
            f'{low:g} and {high:g}; rescale the intensities, or choose another window'
        )
    shown, place = np.empty(number, np.uint8), 0
    for chunk in _finite(chunks, source):
        scaled = (chunk.clip(low, high) - low) / (high - low if high > low else 1)
        shown[place : place + len(chunk)] = np.round(255 * scaled.clip(0, 1)).astype(np.uint8)
        place += len(chunk)
    return shown


def percentiles(chunks: Chunks, wanted: Iterable[float], source: str | Path) -> list[float]:
    """Compute percentiles like :func:`numpy.percentile`, without all voxels in memory.

    The order statistics are found by the upper 16 bits of all voxels, and then by the lower ones.

    Args:
        chunks: See :func:`windowed`.
        wanted: Percentiles, in [0, 100].
        source: File, for messages.

    Raises:
        ValueError: If voxels are not finite.
    """
    upper = np.zeros(2**16, np.int64)
    for chunk in _finite(chunks, source):
        upper += np.bincount(_keys(chunk) >> 16, minlength=len(upper))
    before = np.concatenate([[0], np.cumsum(upper)])  # voxels below each bucket
    last = int(before[-1]) - 1
    places = [last * (percent / 100) for percent in wanted]
    ranks = [[int(place), min(int(place) + 1, last)] for place in places]
    buckets = np.searchsorted(before, ranks, side='right') - 1
    lower = {bucket: np.zeros(2**16, np.int64) for bucket in np.unique(buckets).tolist()}
    for chunk in chunks():
        keys = _keys(chunk)
        for bucket, counts in lower.items():
            counts += np.bincount(keys[keys >> 16 == bucket] & 0xFFFF, minlength=len(counts))
    found = []
    for place, both, of in zip(places, ranks, buckets.tolist(), strict=True):
        pair = [
            bucket << 16
            | int(np.searchsorted(np.cumsum(lower[bucket]), rank - before[bucket], 'right'))
            for rank, bucket in zip(both, of, strict=True)
        ]
        first, second = _values(pair)
        step, part = second - first, np.float64(place - int(place))
        # As NumPy interpolates: the step in float32, the rest in float64.
        found.append(float(first + step * part if part < 0.5 else second - step * (1 - part)))
    return found


def _finite(chunks: Chunks, source: str | Path) -> Iterable[np.ndarray]:
    for chunk in chunks():
        if not np.isfinite(chunk).all():
            raise ValueError(
                f'{source}: expected finite intensities, got NaN or infinity among them'
            )
        yield chunk


def _keys(voxels: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of float32 numbers."""
    bits = np.ascontiguousarray(voxels, np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _values(keys: list[int]) -> np.ndarray:
    bits = np.array(keys, np.uint32)
    return np.where(bits >> 31, bits ^ np.uint32(1 << 31), ~bits).view(np.float32)
