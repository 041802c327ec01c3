"""Read NIfTI files in slabs, so that memory does not depend on the size of a volume."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.optional import require

# Bytes of a slab in the type of its values.
_SLAB = 2**24
# Largest distance of the corners of two grids that count as equal, in voxels.
_TOLERANCE = 0.1
# Largest number of bytes that a byte of a gzip file can become.
_DEFLATED = 1032
_LARGEST_HEADER = 2**26  # bytes, with the extensions
# Largest integer up to which float32 is exact.
_EXACT = 2**24


@dataclass(frozen=True, eq=False)
class NiftiFile:
    """Header of a NIfTI file.

    Attributes:
        path: The file.
        shape: Its shape, 3 or 4 sizes.
        affine: (4, 4), maps voxel indices to positions in the unit of the file, RAS+.
        dtype: Type of the stored numbers.
        offset: Bytes before the voxels.
        slope: Factor of the stored numbers.
        intercept: Summand after that.
        unit: Unit of length: ``'mm'``, ``'micron'``, ``'meter'`` or ``'unknown'``.
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    unit: str = 'unknown'

    @property
    def spacing(self) -> np.ndarray:
        """(3,), size of a voxel in the unit of the file."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def orientation(self) -> str:
        """Directions of the three axes, such as ``'RAS'``."""
        nibabel = require('nibabel', extra='medical', purpose='NIfTI files')
        return ''.join(nibabel.aff2axcodes(self.affine))

    @property
    def is_scaled(self) -> bool:
        """True if the values differ from the stored numbers."""
        return (self.slope, self.intercept) != (1, 0)

    def slabs(
        self, on_nan: Callable[[int], None] | None = None
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the voxels in the order of the file.

        Args:
            on_nan: Called with the number of NaN voxels of a slab, which become 0. Default: refuse
                them.

        Yields:
            Channel, number of the first slice along the last axis, and the slab (X, Y, n): finite,
            of the type of the file or float64 if the values are scaled.

        Raises:
            ValueError: If the file is truncated, its checksum is wrong, or a voxel is not finite.
        """
        width, height, depth, *others = self.shape
        plane = width * height * self.dtype.itemsize
        step = max(1, _SLAB // (width * height * (8 if self.is_scaled else self.dtype.itemsize)))
        opened: Any = gzip.open if self.path.suffix.lower() == '.gz' else open
        with reading(self.path), opened(self.path, 'rb') as file:
            _read(file, self.offset)
            for channel in range(math.prod(others)):
                for start in range(0, depth, step):
                    number = min(step, depth - start)
                    data = np.frombuffer(_read(file, plane * number), self.dtype)
                    slab = data.reshape(width, height, number, order='F')
                    if self.is_scaled:
                        slab = slab * np.float64(self.slope)
                        slab += self.intercept
                    yield channel, start, self._checked(slab, on_nan)
            while file.read(_SLAB):  # the checksum of gzip is at the end
                pass

    def _checked(self, slab: np.ndarray, on_nan: Callable[[int], None] | None) -> np.ndarray:
        if slab.dtype.kind == 'f':
            missing = np.isnan(slab)
            if on_nan is not None and missing.any():
                on_nan(int(np.count_nonzero(missing)))
                slab = np.where(missing, slab.dtype.type(0), slab)
            wrong = slab.size - int(np.count_nonzero(np.isfinite(slab)))
            if wrong:
                raise ValueError(f'expected finite voxels, got {wrong} NaN or infinite ones')
            if max(-slab.min(), slab.max()) > np.finfo(np.float32).max:
                raise ValueError('expected voxels in the range of float32, got larger ones')
        elif slab.dtype.itemsize > 2 and max(-int(slab.min()), int(slab.max())) > _EXACT:
            raise ValueError(
                f'expected integers up to {_EXACT}, which float32 represents exactly, got '
                f'{slab.min()} to {slab.max()}'
            )
        return slab


def read_header(path: Path, flat: bool = False) -> NiftiFile:
    """Read the header of a NIfTI file.

    Args:
        path: The file.
        flat: Accept two dimensions, as a volume of one slice.

    Raises:
        ValueError: If nibabel is not installed, or the file is unreadable or empty, does not have
            three or four dimensions or real numbers, or has a singular affine.
    """
    nibabel = require('nibabel', extra='medical', purpose='NIfTI files')
    with reading(path):
        _check_header(path)
        image = nibabel.load(path)
        array, affine = image.dataobj, np.asarray(image.affine, np.float64)
        if not hasattr(array, 'slope') or Path(array.file_like) != path:
            raise ValueError('expected one NIfTI file')
        header = NiftiFile(
            *(path, image.shape, affine, array.dtype, array.offset, array.slope, array.inter),
            unit=image.header.get_xyzt_units()[0],
        )
    shape = header.shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if flat and len(shape) == 2:
        shape = (*shape, 1)
    header = replace(header, shape=shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        hint = ' A 2-D image is converted by "mmkdml convert folders"' if len(shape) == 2 else ''
        raise ValueError(
            f'{path}: expected a volume of three dimensions, or four with channels, got shape '
            f'{shape}.{hint}'
        )
    if header.dtype.kind not in 'iuf':
        raise ValueError(f'{path}: expected one real number per voxel, got {header.dtype}')
    needed = header.offset + math.prod(shape) * header.dtype.itemsize
    found = path.stat().st_size
    if needed > found * (_DEFLATED if path.suffix.lower() == '.gz' else 1):
        raise ValueError(
            f'{path}: truncated: expected {needed} bytes for shape {shape}, got a file of {found}'
        )
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(f'{path}: expected a finite, invertible affine, got {affine.tolist()}')
    return header


def _check_header(path: str | Path) -> None:
    """Raise ValueError if an extension is larger than the header; nibabel would allocate it."""
    nibabel = require('nibabel', extra='medical', purpose='NIfTI files')
    with nibabel.openers.ImageOpener(path) as file:
        start = file.read(nibabel.Nifti2Header.sizeof_hdr)
        for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
            if len(start) >= kind.sizeof_hdr and kind.may_contain_header(start):
                break
        else:
            return  # nibabel will raise the error
        header = kind(start[: kind.sizeof_hdr], check=False)
        end = float(header['vox_offset'])
        if not end <= _LARGEST_HEADER:
            raise ValueError(f'expected a header of at most {_LARGEST_HEADER} bytes, got {end:g}')
        place = kind.sizeof_hdr + 4
        while place + 16 <= end:
            file.seek(place)
            size = int.from_bytes(file.read(4), 'big' if header.endianness == '>' else 'little')
            if not 8 <= size <= end - place:
                raise ValueError(
                    f'expected a header extension of 8 to {end - place:g} bytes, got {size}'
                )
            place += size


def grid_difference(one: NiftiFile, other: NiftiFile) -> str:
    """Describe how the grids of two files differ; empty if they are equal.

    Corners of the grids may differ by a tenth of a voxel, because tools round affines.
    """
    if one.shape[:3] != other.shape[:3]:
        return f'shape {other.shape[:3]} instead of {one.shape[:3]}'
    if not np.allclose(one.spacing, other.spacing, rtol=1e-3):
        found, expected = (_numbers(file.spacing) for file in (other, one))
        return f'spacing {found} instead of {expected} mm'
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in one.shape[:3]])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    distance = np.abs((one.affine - other.affine) @ corners).max()
    if distance > _TOLERANCE * one.spacing.min():
        return f'an affine that moves its corners by up to {distance:.3g} mm'
    return ''


def _numbers(values: np.ndarray) -> str:
    return f'({", ".join(f"{value:.4g}" for value in values)})'


def _read(file: Any, number: int) -> bytes:
    data = file.read(number)
    if len(data) < number:
        raise ValueError(f'truncated: expected {number} more bytes, got {len(data)}')
    return data


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert any error of a block that reads a NIfTI file to one line with the file's name."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f'{path}: no such file') from None
    except Exception as error:  # broken files raise errors of many types
        reason = ' '.join(str(error).split())
        if type(error) is not ValueError:
            reason = f'unreadable NIfTI ({type(error).__name__}: {reason})'
        raise ValueError(f'{path}: {reason}') from error
