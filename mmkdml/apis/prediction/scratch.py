"""Arrays in temporary files, so that only the parts in use occupy memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from mmkdml.files import reserve

# Larger arrays are kept in a file.
_KEPT = 2**24  # bytes


class Scratch:
    """Array of zeros, in memory if it is small, else in an anonymous temporary file.

    The file is in the system's folder for temporary files (``TMPDIR``). It disappears with the
    object, also if the process is killed.

    Args:
        shape: Shape of the array.
        dtype: Type of the array.

    Raises:
        OSError: If the disk has too little space.
    """

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape, self.dtype = tuple(map(int, shape)), np.dtype(dtype)
        size = math.prod(self.shape) * self.dtype.itemsize
        self._array = np.zeros(self.shape, self.dtype) if size <= _KEPT else None
        if self._array is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            reserve(self._file, size)

    def open(self) -> np.ndarray:
        """Return the array, writable; memory is freed when the returned array is deleted."""
        if self._array is not None:
            return self._array
        return np.memmap(self._file, self.dtype, 'r+', shape=self.shape)


class LazySlices(Sequence[np.ndarray]):
    """Slices of a volume that are computed when they are used.

    Args:
        get: Returns the slice of an index in [0, N).
        shape: (N, H, W) or (N, H, W, C).
    """

    def __init__(self, get: Callable[[int], np.ndarray], shape: Sequence[int]) -> None:
        self._get = get
        self.shape = tuple(shape)

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        found = range(len(self))[index]
        return self._get(found) if isinstance(found, int) else [self._get(one) for one in found]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._get, range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all slices as one array."""
        return np.asarray(np.stack(list(self)), dtype)
