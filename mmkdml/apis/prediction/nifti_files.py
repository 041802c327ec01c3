"""Checks of NIfTI files and their geometry, and reading of their voxels in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.volume import reading, require_medical

_PART = 2**22  # number of voxels read at a time
_LARGEST_HEADER = 2**26  # bytes, with the extensions
_LARGEST_SHIFT = 0.01  # between the voxels of two channels, relative to their spacing


@dataclass(frozen=True, eq=False)
class NiftiFile:
    """A NIfTI file with its geometry.

    Attributes:
        path: The file.
        image: nibabel's image, whose voxels are not in memory.
        shape: Numbers of voxels (I, J, K); K = 1 for a two-dimensional file.
        channels: Size of the fourth dimension, 1 without one.
    """

    path: Path
    image: Any
    shape: tuple[int, int, int]
    channels: int

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), from voxel indices to millimeters."""
        return self.image.affine

    @property
    def dtype(self) -> np.dtype:
        """Type that :meth:`parts` returns: integers of 8 or 16 bits as stored, else float32."""
        voxels = self.image.dataobj
        scaled = (voxels.slope, voxels.inter) != (1, 0)
        if scaled or voxels.dtype.kind not in 'iu' or voxels.dtype.itemsize > 2:
            return np.dtype(np.float32)
        return voxels.dtype.newbyteorder('=')

    def parts(self) -> Iterator[tuple[int, slice, slice, np.ndarray]]:
        """Yield all voxels in the order of the file.

        Yields:
            Channel, rows (j) and layers (k) of the voxels (I, rows, layers).

        Raises:
            ValueError: If the file is unreadable.
        """
        nibabel = require_medical('nibabel')
        voxels = self.image.dataobj
        columns, rows, layers = self.shape
        with reading(self.path, 'NIfTI'), nibabel.openers.ImageOpener(voxels.file_like) as file:
            for channel, (j, k) in product(range(self.channels), _cuts(self.shape)):
                size = (columns, j.stop - j.start, k.stop - k.start)
                start = columns * (j.start + rows * (k.start + layers * channel))
                offset = voxels.offset + start * voxels.dtype.itemsize
                spec = (size, voxels.dtype, offset, voxels.slope, voxels.inter)
                part = nibabel.arrayproxy.ArrayProxy(file, spec, mmap=False)
                yield channel, j, k, np.asarray(part, dtype=self.dtype)


def _cuts(shape: tuple[int, int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and layers of consecutive parts of a volume (I, J, K)."""
    columns, rows, layers = shape
    deep = max(1, _PART // (columns * rows))
    high = max(1, _PART // columns) if deep == 1 else rows
    for k in range(0, layers, deep):
        for j in range(0, rows, high):
            yield slice(j, min(j + high, rows)), slice(k, min(k + deep, layers))


def open_nifti(path: str | Path) -> NiftiFile:
    """Read and check the header of a NIfTI file.

    Raises:
        ValueError: If nibabel is not installed, or the file is unreadable, has an oversized header,
            an unsupported shape, a singular affine or not one real number per voxel.
    """
    nibabel = require_medical('nibabel')
    with reading(path, 'NIfTI'):
        _check_header(path)
        image = nibabel.load(path)
        shape, affine, dtype = image.shape, image.affine, image.get_data_dtype()
    if len(shape) < 2 or 0 in shape or set(shape[4:]) - {1}:
        raise ValueError(
            f'{path}: expected a slice, a volume with three dimensions or one with channels as the '
            f'fourth, all larger than 0, got shape {shape}'
        )
    if dtype.kind not in 'iuf':
        raise ValueError(f'{path}: expected one real number per voxel, got {dtype}')
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(f'{path}: expected a finite, invertible affine, got {affine.tolist()}')
    sizes = (*shape, 1, 1)
    return NiftiFile(Path(path), image, sizes[:3], sizes[3])


def check_same_grid(files: Sequence[NiftiFile]) -> None:
    """Raise ValueError unless all channels of a case have the same shape and affine."""
    first = files[0]
    ends = [range(0, max(size, 2), max(size - 1, 1)) for size in first.shape]
    corners = np.array([[*one, 1] for one in product(*ends)], dtype=float).T
    spacing = np.linalg.norm(first.affine[:3, :3], axis=0)
    for other in files[1:]:
        if other.shape != first.shape:
            raise ValueError(
                f'{other.path}: expected the shape of {first.path.name}, {first.shape}, got '
                f'{other.shape}. Resample the channels of a case to one grid'
            )
        shift = np.linalg.norm(((other.affine - first.affine) @ corners)[:3], axis=0).max()
        if shift > _LARGEST_SHIFT * spacing.min():
            raise ValueError(
                f'{other.path}: expected the affine of {first.path.name}, '
                f'{first.affine[:3].tolist()}, got {other.affine[:3].tolist()}, which moves voxels '
                f'by up to {shift:.3g} mm. Resample the channels of a case to one grid'
            )


def _check_header(path: str | Path) -> None:
    """Raise ValueError if an extension is larger than the header; nibabel would allocate it."""
    nibabel = require_medical('nibabel')
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
