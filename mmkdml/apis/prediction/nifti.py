"""Reading NIfTI volumes as slices, and writing masks on a volume's own grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.volume import Volume, check_voxels, reading, require_medical
from mmkdml.apis.prediction.windowing import CHUNK, apply_window

#: Directions of columns, rows and slices of each plane, in the radiological convention: the
#: patient's left on the right-hand side, anterior or superior at the top.
PLANES = {'axial': ('L', 'P', 'S'), 'coronal': ('L', 'I', 'P'), 'sagittal': ('P', 'I', 'L')}
_LARGEST_HEADER = 2**26  # bytes, with the extensions


def check_plane(plane: str) -> None:
    """Raise ValueError unless ``plane`` is one of :data:`PLANES`."""
    if plane not in PLANES:
        raise ValueError(f'Invalid plane: expected one of {", ".join(PLANES)}, got {plane!r}')


def read_nifti(
    path: str | Path,
    plane: str = 'axial',
    window: tuple[float, float] | None = None,
    max_voxels: int | None = None,
    max_pixels: int | None = None,
) -> Volume:
    """Read a NIfTI volume and cut it into slices along the axes nearest to a plane.

    Args:
        path: ``.nii`` or ``.nii.gz`` file with three dimensions, or more of size 1.
        plane: One of :data:`PLANES`.
        window: Intensities that become black and white. Default: the 0.5th and 99.5th percentile.
        max_voxels: Largest number of voxels, checked before they are read. Default: no limit.
        max_pixels: Largest number of pixels of a slice. Default: no limit.

    Raises:
        ValueError: If nibabel is not installed, the plane is unknown, or the file is unreadable,
            too large, not three-dimensional, has an oversized header or a singular affine, or has
            values that are not finite real numbers.
    """
    nibabel = require_medical('nibabel')
    check_plane(plane)
    with reading(path, 'NIfTI'):
        _check_header(path)
        image = nibabel.load(path)
        shape, affine, dtype = image.shape, image.affine, image.get_data_dtype()
    if len(shape) < 3 or 0 in shape or set(shape[3:]) - {1}:
        raise ValueError(
            f'{path}: expected a volume with three dimensions, got shape {shape}. Split time '
            'points and channels into separate files'
        )
    if dtype.kind not in 'iuf':
        raise ValueError(f'{path}: expected one real number per voxel, got {dtype}')
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(f'{path}: expected a finite, invertible affine, got {affine.tolist()}')
    orientations = nibabel.orientations
    stored = orientations.io_orientation(affine)
    displayed = orientations.axcodes2ornt(PLANES[plane])
    turn = orientations.ornt_transform(stored, displayed)
    check_voxels(shape, max_voxels, path)
    sides = [size for size, (axis, _) in zip(shape, turn, strict=False) if axis != 2]
    check_voxels(sides, max_pixels, path)
    voxels = apply_window(lambda: _chunks(image.dataobj, path), math.prod(shape), window, path)
    voxels = voxels.reshape(shape[:3], order=image.dataobj.order)
    return Volume(
        orientations.apply_orientation(voxels, turn).transpose(2, 1, 0),
        affine,
        orientations.ornt_transform(displayed, stored),
        image.header,
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


def _chunks(voxels: Any, path: str | Path) -> Iterator[np.ndarray]:
    """Yield the scaled voxels of nibabel's array proxy in file order."""
    nibabel = require_medical('nibabel')
    number = math.prod(voxels.shape)
    with reading(path, 'NIfTI'), nibabel.openers.ImageOpener(voxels.file_like) as file:
        for start in range(0, number, CHUNK):
            offset = voxels.offset + start * voxels.dtype.itemsize
            spec = ((min(CHUNK, number - start),), voxels.dtype, offset, voxels.slope, voxels.inter)
            part = nibabel.arrayproxy.ArrayProxy(file, spec, mmap=False)
            yield np.asarray(part, dtype=np.float32)


def write_mask(masks: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Write a mask as NIfTI on the voxel grid of the volume it was predicted for.

    Args:
        masks: (N, H, W), class indices, of the same shape as the volume's slices.
        volume: The volume; its affine and spatial header fields are kept.
        path: ``.nii`` or ``.nii.gz`` file to write.

    Raises:
        ValueError: If nibabel is not installed, or the masks and slices differ in shape.
    """
    nibabel = require_medical('nibabel')
    if masks.shape != volume.slices.shape:
        raise ValueError(
            f'Invalid masks: expected shape {volume.slices.shape}, as the slices, got {masks.shape}'
        )
    voxels = nibabel.orientations.apply_orientation(masks.transpose(2, 1, 0), volume.to_file)
    is_nifti2 = isinstance(volume.header, nibabel.Nifti2Header)
    kind = nibabel.Nifti2Image if is_nifti2 else nibabel.Nifti1Image
    image = kind(voxels.astype(np.uint8), volume.affine, volume.header)
    image.set_data_dtype(np.uint8)
    image.header.set_intent('label')
    image.header['cal_min'] = image.header['cal_max'] = 0  # the volume's range would hide the mask
    if volume.header is None:
        image.header.set_xyzt_units('mm')
        image.set_sform(volume.affine, 'scanner')
    nibabel.save(image, path)
