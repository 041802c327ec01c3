"""Volumes as slices, of NIfTI files, and masks of them on the volume's own grid.

Needs nibabel, an optional package of ``pip install mmkdml[medical]``.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: For each plane: where columns, rows and slices go. As radiologists see it: the patient's left
#: on the right-hand side, the front or the head above.
PLANES = {'axial': ('L', 'P', 'S'), 'coronal': ('L', 'I', 'P'), 'sagittal': ('P', 'I', 'L')}
# Percentiles of the voxels that become black and white where no window is known.
_DARKEST, _BRIGHTEST = 0.5, 99.5
_LARGEST = float(np.finfo(np.float32).max)  # of a voxel


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
) -> Volume:
    """Reads a NIfTI volume and cuts it along the plane nearest to the one asked for.

    Args:
        path: ``.nii`` or ``.nii.gz`` of three dimensions; further ones may have the size 1.
        plane: One of :data:`PLANES`.
        window: Intensities that become black and white. Default: the 0.5th and 99.5th percentile.
        max_voxels: A volume of more is refused before its voxels are read.

    Raises:
        ValueError: If nibabel is missing, the file cannot be read, has no three dimensions, no
            place in space, other values than finite real numbers or too many of them, or there is
            no such plane.
    """
    nibabel = package('nibabel')
    if plane not in PLANES:
        raise ValueError(f'plane must be one of {", ".join(PLANES)}; got {plane!r}')
    with readable(path, 'NIfTI'):
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
    check_number(shape, max_voxels, path)
    with readable(path, 'NIfTI'):
        voxels = np.asarray(image.dataobj, dtype=np.float32).reshape(shape[:3])
    orientations = nibabel.orientations
    stored = orientations.io_orientation(affine)
    shown = orientations.axcodes2ornt(PLANES[plane])
    turned = orientations.apply_orientation(voxels, orientations.ornt_transform(stored, shown))
    return Volume(
        windowed(turned, window, path).transpose(2, 1, 0),
        affine,
        orientations.ornt_transform(shown, stored),
        image.header,
    )


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


def windowed(
    voxels: np.ndarray, window: tuple[float, float] | None, source: str | Path
) -> np.ndarray:
    """As uint8, from the window's black to its white; a volume of one value is black.

    Args:
        voxels: Of any shape, real.
        window: Black and white, or None for the 0.5th and 99.5th percentile.
        source: For messages.

    Raises:
        ValueError: If voxels are not finite, or the window is empty or too wide.
    """
    if not np.isfinite(voxels).all():
        raise ValueError(f'{source}: expected finite intensities, got NaN or infinity among them')
    ends = np.percentile(voxels, (_DARKEST, _BRIGHTEST)) if window is None else window
    low, high = map(float, ends)
    if window is not None and low >= high:
        raise ValueError(
            'a window goes from a lower to a higher intensity, got {} to {}'.format(*ends)
        )
    if max(-low, high, high - low) > _LARGEST:
        raise ValueError(
            f'{source}: black and white must be within {_LARGEST:g} of 0 and of each other, got '
            f'{low:g} and {high:g}; rescale the intensities, or choose another window'
        )
    scaled = (voxels.clip(low, high) - low) / (high - low if high > low else 1)
    return np.round(255 * scaled.clip(0, 1)).astype(np.uint8)
