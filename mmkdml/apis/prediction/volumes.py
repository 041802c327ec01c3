"""Volumes as slices, of NIfTI files, and masks of them on the volume's own grid.

Needs nibabel, an optional package of ``pip install mmkdml[medical]``.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.windowing import CHUNK, windowed

#: For each plane: where columns, rows and slices go. As radiologists see it: the patient's left
#: on the right-hand side, the front or the head above.
PLANES = {'axial': ('L', 'P', 'S'), 'coronal': ('L', 'I', 'P'), 'sagittal': ('P', 'I', 'L')}
# Bytes before the voxels: the header and its extensions.
_LARGEST_HEADER = 2**26


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as the slices that a network sees, with its place in space.

    Attributes:
        slices: (N, H, W), uint8, the window from black to white.
        affine: (4, 4), from the file's voxel indices (i, j, k) to millimetres, RAS+ as in NIfTI.
        back: (3, 2), nibabel's orientation transform from (column, row, slice) to (i, j, k).
        header: Of the NIfTI file; None for DICOM.
    """

    slices: np.ndarray
    affine: np.ndarray
    back: np.ndarray
    header: Any = None


def read_nifti(
    path: str | Path,
    plane: str = 'axial',
    window: tuple[float, float] | None = None,
    max_voxels: int | None = None,
    max_pixels: int | None = None,
) -> Volume:
    """Reads a NIfTI volume and cuts it along the plane nearest to the one asked for.

    Args:
        path: ``.nii`` or ``.nii.gz`` of three dimensions; further ones may have the size 1.
        plane: One of :data:`PLANES`.
        window: Intensities that become black and white. Default: the 0.5th and 99.5th percentile.
        max_voxels: A volume of more is refused before its voxels are read.
        max_pixels: The same for the pixels of one slice.

    Raises:
        ValueError: If nibabel is missing, the file cannot be read, has no three dimensions, no
            place in space, other values than finite real numbers or too many of them, too long a
            header, or there is no such plane.
    """
    nibabel = package('nibabel')
    if plane not in PLANES:
        raise ValueError(f'plane must be one of {", ".join(PLANES)}; got {plane!r}')
    with readable(path, 'NIfTI'):
        _check_header(path)
        image = nibabel.load(path)
        shape, affine, dtype = image.shape, image.affine, image.get_data_dtype()
    if len(shape) < 3 or 0 in shape or set(shape[3:]) - {1}:
        raise ValueError(
            f'{path}: expected a volume of three dimensions, got the shape {shape}; split time '
            'points and channels into files of their own'
        )
    if dtype.kind not in 'iuf':
        raise ValueError(f'{path}: expected one real number for each voxel, got {dtype}')
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(
            f'{path}: its affine must give each voxel a place of its own, got {affine.tolist()}'
        )
    orientations = nibabel.orientations
    stored = orientations.io_orientation(affine)
    shown = orientations.axcodes2ornt(PLANES[plane])
    turn = orientations.ornt_transform(stored, shown)
    check_number(shape, max_voxels, path)
    sides = [size for size, (axis, _) in zip(shape, turn, strict=False) if axis != 2]
    check_number(sides, max_pixels, path)
    voxels = windowed(lambda: _chunks(image.dataobj, path), math.prod(shape), window, path)
    voxels = voxels.reshape(shape[:3], order=image.dataobj.order)
    return Volume(
        orientations.apply_orientation(voxels, turn).transpose(2, 1, 0),
        affine,
        orientations.ornt_transform(shown, stored),
        image.header,
    )


def _check_header(path: str | Path) -> None:
    """Refuse a header whose extensions are larger than the space before the voxels.

    Raises:
        ValueError: If one is; nibabel would allocate that size.
    """
    nibabel = package('nibabel')
    with nibabel.openers.ImageOpener(path) as file:
        start = file.read(nibabel.Nifti2Header.sizeof_hdr)
        for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
            if len(start) >= kind.sizeof_hdr and kind.may_contain_header(start):
                break
        else:
            return  # nibabel raises the error
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


def _chunks(voxels: Any, path: str | Path) -> Iterator[np.ndarray]:
    """Yield the scaled voxels of nibabel's array proxy, in the order of the file."""
    nibabel = package('nibabel')
    number = math.prod(voxels.shape)
    with readable(path, 'NIfTI'), nibabel.openers.ImageOpener(voxels.file_like) as file:
        for start in range(0, number, CHUNK):
            offset = voxels.offset + start * voxels.dtype.itemsize
            spec = ((min(CHUNK, number - start),), voxels.dtype, offset, voxels.slope, voxels.inter)
            part = nibabel.arrayproxy.ArrayProxy(file, spec, mmap=False)
            yield np.asarray(part, dtype=np.float32)


def write_mask(masks: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Writes a mask as NIfTI, voxel by voxel on the grid of the volume it was predicted for.

    Args:
        masks: (N, H, W), class indices, as many and as large as the volume's slices.
        volume: Whose affine the file gets and, if it has one, its header with all that says where
            the voxels are.
        path: ``.nii`` or ``.nii.gz``.

    Raises:
        ValueError: If nibabel is missing, or the masks have another shape than the slices.
    """
    nibabel = package('nibabel')
    if masks.shape != volume.slices.shape:
        raise ValueError(
            f'masks must have the shape of the slices {volume.slices.shape}, got {masks.shape}'
        )
    voxels = nibabel.orientations.apply_orientation(masks.transpose(2, 1, 0), volume.back)
    second = isinstance(volume.header, nibabel.Nifti2Header)
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    image = kind(voxels.astype(np.uint8), volume.affine, volume.header)
    image.set_data_dtype(np.uint8)
    image.header.set_intent('label')
    image.header['cal_min'] = image.header['cal_max'] = 0  # the volume's would hide the mask
    if volume.header is None:
        image.header.set_xyzt_units('mm')
        image.set_sform(volume.affine, 'scanner')
    nibabel.save(image, path)


@contextmanager
def readable(path: str | Path, kind: str) -> Iterator[None]:
    """Makes one error of one line, which names the file, of any that reading it may raise.

    Raises:
        ValueError: In place of any other error.
    """
    try:
        with warnings.catch_warnings():  # of broken tags and many pixels; we say so ourselves
            warnings.simplefilter('ignore')
            yield
    except Exception as error:  # a broken file makes libraries raise nearly anything
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path}: unreadable {kind} ({type(error).__name__}: {reason})') from error


def package(name: str) -> Any:
    """An optional package.

    Raises:
        ValueError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f'NIfTI and DICOM need the package {name}, which is not installed: '
            'pip install mmkdml[medical]'
        ) from error


def check_number(shape: Sequence[int], most: int | None, source: str | Path) -> None:
    """Refuses a volume of more voxels than ``most``.

    Raises:
        ValueError: If it has more; names the source.
    """
    number = int(np.prod(shape, dtype=float))
    if most is not None and number > most:
        raise ValueError(
            f'{source}: {number / 1e6:.0f} megavoxels {tuple(shape)} are more than {most / 1e6:g}; '
            'cut it into parts, or raise the limit (max_pixels, --max-megapixels), of which a '
            'volume may have ten times as many'
        )
