"""Conversion of a volume's intensities to 8 bits, in chunks that bound the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

#: Number of voxels read at a time.
CHUNK = 2**22
# Volumes of more voxels are read once per pass instead of being kept in memory.
_KEPT = 2**26
#: Percentiles that become black and white.
DEFAULT_PERCENTILES = (0.5, 99.5)
_LARGEST = float(np.finfo(np.float32).max)

T = TypeVar('T')
Chunks = Callable[[], Iterable[np.ndarray]]
"""Iterates over all voxels: flat float32 arrays of about :data:`CHUNK` voxels."""


def check_window(window: tuple[float, float]) -> None:
    """Raise ValueError unless a window goes from a lower to a higher intensity."""
    if not window[0] < window[1]:
        raise ValueError(
            'Invalid window: expected a lower and a higher intensity, got {} and {}'.format(*window)
        )


def apply_window(
    chunks: Chunks, number: int, window: tuple[float, float] | None, source: str | Path
) -> np.ndarray:
    """Scale a window of intensities linearly to 0 to 255; a constant volume becomes 0.

    Args:
        chunks: Called once for each pass over the voxels.
        number: Number of voxels, N.
        window: Intensities that become 0 and 255. None: the 0.5th and 99.5th percentile.
        source: File name for error messages.

    Returns:
        (N,), uint8.

    Raises:
        ValueError: If voxels are not finite, or the window is empty or exceeds float32.
    """
    chunks = keep(chunks, number)
    ends = own_window(chunks, window, source)
    result, start = np.empty(number, np.uint8), 0
    for chunk in _finite(chunks, source):
        result[start : start + len(chunk)] = scaled(chunk, ends)
        start += len(chunk)
    return result


def own_window(
    chunks: Chunks, window: tuple[float, float] | None, source: str | Path
) -> tuple[float, float]:
    """Return the intensities that become 0 and 255; see :func:`apply_window`."""
    if window is None:
        low, high = percentiles(chunks, DEFAULT_PERCENTILES, source)
    else:
        check_window(window)
        low, high = map(float, window)
    if max(-low, high, high - low) > _LARGEST:
        raise ValueError(
            f'{source}: window: expected limits within {_LARGEST:g} of 0 and of each other, got '
            f'{low:g} and {high:g}. Rescale the intensities, or choose another window'
        )
    return low, high


def scaled(voxels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Scale a window linearly to 0 to 255, uint8; if it is empty, all become 0."""
    low, high = window
    voxels, result = voxels.reshape(-1), np.empty(voxels.shape, np.uint8)
    for start in range(0, len(voxels), CHUNK):  # bounds the memory of large slices
        part = voxels[start : start + CHUNK].astype(np.float32).clip(low, high)
        shares = (part - low) / (high - low if high > low else 1)
        rounded = np.round(255 * shares.clip(0, 1))
        result.reshape(-1)[start : start + len(part)] = rounded
    return result


def keep(chunks: Callable[[], Iterable[T]], number: int) -> Callable[[], Iterable[T]]:
    """Cache chunks of ``number`` voxels in memory, unless they are too large."""
    if number > _KEPT:
        return chunks
    kept = list(chunks())
    return lambda: kept


def percentiles(chunks: Chunks, wanted: Iterable[float], source: str | Path) -> list[float]:
    """Compute the percentiles of :func:`numpy.percentile` without all voxels in memory.

    Order statistics are found by a radix selection: a histogram of the upper 16 bits of all voxels,
    then one of the lower 16 bits in each bucket of interest.

    Args:
        chunks: See :func:`apply_window`.
        wanted: Percentiles, in [0, 100].
        source: File name for error messages.

    Raises:
        ValueError: If voxels are not finite.
    """
    upper = np.zeros(2**16, np.int64)
    for chunk in _finite(chunks, source):
        upper += np.bincount(_keys(chunk) >> 16, minlength=len(upper))
    below = np.concatenate([[0], np.cumsum(upper)])  # number of voxels below each bucket
    last = int(below[-1]) - 1
    positions = [last * (percent / 100) for percent in wanted]
    ranks = [[int(one), min(int(one) + 1, last)] for one in positions]
    buckets = np.searchsorted(below, ranks, side='right') - 1
    lower = {bucket: np.zeros(2**16, np.int64) for bucket in np.unique(buckets).tolist()}
    for chunk in chunks():
        keys = _keys(chunk)
        for bucket, counts in lower.items():
            counts += np.bincount(keys[keys >> 16 == bucket] & 0xFFFF, minlength=len(counts))
    found = []
    for position, neighbors, own in zip(positions, ranks, buckets.tolist(), strict=True):
        pair = [
            bucket << 16
            | int(np.searchsorted(np.cumsum(lower[bucket]), rank - below[bucket], 'right'))
            for rank, bucket in zip(neighbors, own, strict=True)
        ]
        first, second = _values(pair)
        step, part = second - first, np.float64(position - int(position))
        # NumPy interpolates alike: the step in float32, the rest in float64.
        found.append(float(first + step * part if part < 0.5 else second - step * (1 - part)))
    return found


def _finite(chunks: Chunks, source: str | Path) -> Iterable[np.ndarray]:
    for chunk in chunks():
        if not np.isfinite(chunk).all():
            raise ValueError(f'{source}: expected finite intensities, got NaN or infinity')
        yield chunk


def _keys(voxels: np.ndarray) -> np.ndarray:
    """Map float32 numbers to unsigned integers of the same order."""
    bits = np.ascontiguousarray(voxels, np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _values(keys: list[int]) -> np.ndarray:
    bits = np.array(keys, np.uint32)
    return np.where(bits >> 31, bits ^ np.uint32(1 << 31), ~bits).view(np.float32)
