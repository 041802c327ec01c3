"""Volumes stored as NumPy files of slices.

A case has the files ``<case>.npy``, ``<case>_label.npy`` and ``<case>.json`` (:class:`Case`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: Value of labels that training and metrics ignore.
IGNORED = 255
#: Types of stored images, all of which float32 represents exactly.
DTYPES = ('uint8', 'int16', 'uint16', 'float32')
#: End of the name of a stored label, before the suffix.
LABEL = '_label'
# Bytes of a block of slices.
_BLOCK = 2**25
# Between the file of a volume and the number of a slice, in split files and samples.
_SEPARATOR = '#'


@dataclass(frozen=True)
class Case:
    """Description of a stored case: the JSON file next to its voxels.

    Attributes:
        name: Name of the case.
        channels: Names of its C channels.
        axes: Axes of the source file that are slices, rows and columns.
        affine: 4x4, maps voxel indices of the source file to millimeters, RAS+.
        spacing: Distance of slices, rows and columns in millimeters.
        shape: Shape of the source file, without channels.
        intensity: Statistics per channel over the whole case, see :func:`case_intensity`.
        foreground: Per channel that is normalized as CT, statistics of its intensities in the
            foreground, empty without foreground; None for other channels.
        filled: Numbers of the slices with any foreground.
        source: SHA-256 of the source files by name, and the settings of the conversion.
    """

    name: str
    channels: list[str]
    axes: list[int]
    affine: list[list[float]]
    spacing: list[float]
    shape: list[int]
    intensity: list[list[float]]
    foreground: list[dict[str, Any] | None]
    filled: list[int]
    source: dict[str, Any]

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.shape[self.axes[0]]


def read_case(folder: str | Path, name: str) -> Case:
    """Read the description of a case.

    Args:
        folder: Folder of the stored volumes.
        name: Name of the case.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or of another version of mmkdml.
    """
    path = Path(folder) / f'{name}.json'
    try:
        return Case(**json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'No volume {path}: expected data_root to be the folder volumes of the converter'
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is damaged: expected the description of a case, got {error}. Run the '
            'converter again'
        ) from error


def check_axis(axis: int | None) -> None:
    """Raise ValueError unless an axis of a volume is None, 0, 1 or 2."""
    if axis not in (None, 0, 1, 2):
        raise ValueError(f'Invalid axis: expected 0, 1 or 2, got {axis!r}')


def coarsest_axis(shapes: ArrayLike, spacings: ArrayLike) -> int:
    """Return the axis with one slice in all cases, or else with the largest median spacing.

    Args:
        shapes: (N, 3), shapes of the source files.
        spacings: (N, 3), sizes of their voxels.

    >>> coarsest_axis([(512, 512, 60)], [(0.7, 0.7, 5.0)])
    2
    """
    spacing = np.median(np.asarray(spacings), axis=0)
    spacing[(np.asarray(shapes) == 1).all(axis=0)] = np.inf
    return max(range(3), key=lambda axis: (round(float(spacing[axis]), 3), axis))


def slice_axes(axis: int) -> tuple[int, int, int]:
    """Return the axes of a NIfTI file that are slices, rows and columns.

    The order of rows and columns is that of nnU-Net, which reverses the axes of a file.
    """
    rows, columns = (one for one in (2, 1, 0) if one != axis)
    return axis, rows, columns


def slice_path(name: str, number: int) -> str:
    """Name a slice of a volume, such as ``CASE.npy#12``."""
    return f'{name}{_SEPARATOR}{number}'


def is_slice(path: str | Path) -> bool:
    """Return whether a path names a slice of a volume."""
    file, separator, number = str(path).rpartition(_SEPARATOR)
    return bool(separator) and file.endswith('.npy') and number.isdecimal()


def volume_file(path: str) -> str:
    """Return the file of a slice; other paths are returned unchanged."""
    return path.rpartition(_SEPARATOR)[0] if is_slice(path) else path


def read_slice(path: str | Path, context: int = 0) -> np.ndarray:
    """Read a slice and its neighbors.

    Args:
        path: Path of the slice, see :func:`slice_path`.
        context: Number of neighbors on each side. At the ends of the volume, its first or last
            slice is repeated.

    Returns:
        (H, W, (2 * context + 1) * C) from the first to the last neighbor, with C channels each; or
        (H, W) of a label. In the type of the file, writable.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If ``path`` names no slice of a volume, or the file is damaged.
    """
    file, _, number = str(path).rpartition(_SEPARATOR)
    if not is_slice(path):
        raise ValueError(f'{path}: expected a slice of a volume, such as CASE.npy#12')
    index = int(number)
    with open(file, 'rb', buffering=0) as stored:
        state = os.fstat(stored.fileno())
        shape, dtype, start = _layout(file, state.st_size, state.st_mtime_ns, state.st_ino)
        if len(shape) not in (3, 4) or index >= shape[0]:
            raise ValueError(
                f'{path}: expected one of the {(*shape, 0)[0]} slices of a volume (D, C, H, W), '
                f'got number {number} of {shape}'
            )
        context = context if len(shape) == 4 else 0
        first, last = max(index - context, 0), min(index + context, shape[0] - 1)
        block = np.empty((last - first + 1, *shape[1:]), dtype)
        stored.seek(start + first * block[0].nbytes)
        if stored.readinto(block.data) != block.nbytes:
            raise ValueError(f'{file}: the file was truncated. Run the converter again')
    return with_context(block, index - first, context) if block.ndim == 4 else block[0]


@lru_cache(maxsize=4096)
def _layout(file: str, *state: int) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, type and offset of the array in a file, whose size and times are ``state``.

    Reading a header takes ten times as long as reading a small slice. Files are not kept mapped,
    because mapped pages count as memory of the process.
    """
    try:
        volume = np.load(file, mmap_mode='r', allow_pickle=False)  # also compares shape and size
        if not volume.flags.c_contiguous:
            raise ValueError('expected C order, got Fortran order')
    except (EOFError, ValueError) as error:
        raise ValueError(f'{file}: unreadable volume ({error}). Run the converter again') from error
    return volume.shape, volume.dtype, volume.offset


def with_context(volume: np.ndarray, number: int, context: int) -> np.ndarray:
    """Return slice ``number`` of a volume (D, C, H, W) and its neighbors; see :func:`read_slice`.

    >>> volume = np.arange(3).reshape(3, 1, 1, 1)
    >>> with_context(volume, 0, 1).ravel().tolist()
    [0, 0, 1]
    """
    numbers = np.clip(np.arange(number - context, number + context + 1), 0, len(volume) - 1)
    stack = volume[numbers]
    return np.ascontiguousarray(stack.reshape(-1, *stack.shape[2:]).transpose(1, 2, 0))


def case_intensity(volume: Iterable[np.ndarray]) -> list[tuple[float, float, float, float]]:
    """Compute mean, standard deviation, minimum and maximum of each channel of a volume.

    Slices are read one after the other and accumulated in float64, so that a memory-mapped volume
    needs little memory.

    Args:
        volume: (D, C, H, W) or D slices (C, H, W), finite.

    Returns:
        C tuples.
    """
    moments: list[_Moments] = []
    for one in volume:
        moments = moments or [_Moments() for _ in one]
        for channel, own in zip(np.asarray(one), moments, strict=True):
            own.add(channel)
    return [(one.mean, one.std, one.low, one.high) for one in moments]


def blocks(*paths: Path) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield blocks of the same slices of stored arrays; only one is in memory at a time."""
    start, count = 0, 1
    while start < count:
        mapped = [np.load(path, mmap_mode='r', allow_pickle=False) for path in paths]
        count = len(mapped[0])
        step = max(1, _BLOCK // max(one[0].nbytes for one in mapped))
        parts = tuple(np.array(one[start : start + step]) for one in mapped)
        del mapped  # unmaps the pages, which would count as memory of the process
        yield parts
        start += step


class _Moments:
    """Running mean and sum of squared deviations (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.number, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        values = values.astype(np.float64)
        mean = float(values.mean())
        total = self.number + values.size
        gap = mean - self.mean
        self.squares += float(np.square(values - mean).sum())
        self.squares += gap * gap * self.number * values.size / total
        self.mean += gap * values.size / total
        self.number = total
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    @property
    def std(self) -> float:
        return float(np.sqrt(self.squares / self.number))
