"""NIfTI volumes and DICOM series as slices, and masks of them on the volume's own grid.

Needs the optional packages of ``pip install mmkdml[medical]``: nibabel, and pydicom for DICOM.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: For each plane: where columns, rows and slices go. As radiologists see it: the patient's left
#: on the right-hand side, the front or the head above.
PLANES = {'axial': ('L', 'P', 'S'), 'coronal': ('L', 'I', 'P'), 'sagittal': ('P', 'I', 'L')}
# Percentiles of the voxels that become black and white where no window is known.
_DARKEST, _BRIGHTEST = 0.5, 99.5


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
    path: str | Path, plane: str = 'axial', window: tuple[float, float] | None = None
) -> Volume:
    """Reads a NIfTI volume and cuts it along the plane nearest to the one asked for.

    Args:
        path: ``.nii`` or ``.nii.gz`` of three dimensions.
        plane: One of :data:`PLANES`.
        window: Intensities that become black and white. Default: the 0.5th and 99.5th percentile.

    Raises:
        ValueError: If nibabel is missing, the file cannot be read or has no three dimensions, or
            there is no such plane.
    """
    nibabel = _package('nibabel')
    if plane not in PLANES:
        raise ValueError(f'plane must be one of {", ".join(PLANES)}; got {plane!r}')
    try:
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # a broken file makes nibabel raise nearly anything
        raise ValueError(f'{path}: unreadable NIfTI ({type(error).__name__}: {error})') from error
    if voxels.ndim != 3:
        raise ValueError(
            f'{path}: expected a volume of three dimensions, got the shape {voxels.shape}; split '
            'time points and channels into files of their own'
        )
    orientations = nibabel.orientations
    stored = orientations.io_orientation(image.affine)
    shown = orientations.axcodes2ornt(PLANES[plane])
    turned = orientations.apply_orientation(voxels, orientations.ornt_transform(stored, shown))
    return Volume(
        _windowed(turned, window, path).transpose(2, 1, 0),
        image.affine,
        orientations.ornt_transform(shown, stored),
        image.header,
    )


def read_dicom(files: Sequence[str | Path], window: tuple[float, float] | None = None) -> Volume:
    """Reads the slices of one DICOM series, as they were acquired, in the order of their places.

    Args:
        files: Of one series, in any order.
        window: Rescaled intensities (Hounsfield units in CT) that become black and white. Default:
            the series' own window where all slices have one and the same, or else the 0.5th and
            99.5th percentile.

    Raises:
        ValueError: If pydicom is missing, a file cannot be read, or the files are not one series
            of parallel, evenly spaced grey slices of one size.
    """
    pydicom = _package('pydicom')
    if not files:
        raise ValueError('a DICOM series needs at least one file, got none')
    folder = Path(files[0]).parent
    slices, images = [], []
    for path in files:
        try:
            slices.append(pydicom.dcmread(path))
            pixels = pydicom.pixels.apply_rescale(slices[-1].pixel_array, slices[-1])
        except Exception as error:  # as with nibabel
            raise ValueError(
                f'{path}: unreadable DICOM ({type(error).__name__}: {error})'
            ) from error
        images.append(np.asarray(pixels, dtype=np.float32))
    _check_series(slices, images, files)
    rows, columns = np.reshape(np.array(slices[0].ImageOrientationPatient, dtype=float), (2, 3))
    places = np.array([one.ImagePositionPatient for one in slices], dtype=float)
    order = np.argsort(places @ np.cross(rows, columns), kind='stable')
    affine = _affine(slices[0], rows, columns, places[order], folder)
    if window is None:
        window = _own_window(slices)
    voxels = _windowed(np.stack([images[index] for index in order]), window, folder)
    if slices[0].PhotometricInterpretation == 'MONOCHROME1':  # the lowest value is white
        voxels = 255 - voxels
    return Volume(voxels, affine, np.array([[0, 1], [1, 1], [2, 1]]))


def write_mask(masks: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Writes a mask as NIfTI, voxel by voxel on the grid of the volume it was predicted for.

    Args:
        masks: (N, H, W), class indices, as many and as large as the volume's slices.
        volume: Whose affine, and header if it has one, the file gets.
        path: ``.nii`` or ``.nii.gz``.

    Raises:
        ValueError: If nibabel is missing, or the masks have another shape than the slices.
    """
    nibabel = _package('nibabel')
    if masks.shape != volume.slices.shape:
        raise ValueError(
            f'masks must have the shape of the slices {volume.slices.shape}, got {masks.shape}'
        )
    voxels = nibabel.orientations.apply_orientation(masks.transpose(2, 1, 0), volume.back)
    image = nibabel.Nifti1Image(voxels.astype(np.uint8), volume.affine, volume.header)
    image.set_data_dtype(np.uint8)
    if volume.header is None:
        image.header.set_xyzt_units('mm')
    nibabel.save(image, path)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f'NIfTI and DICOM need the package {name}, which is not installed: '
            'pip install mmkdml[medical]'
        ) from error


def _windowed(
    voxels: np.ndarray, window: tuple[float, float] | None, source: str | Path
) -> np.ndarray:
    """As uint8, from the window's black to its white; a volume of one value is black."""
    if not np.isfinite(voxels).all():
        raise ValueError(f'{source}: expected finite intensities, got NaN or infinity among them')
    low, high = np.percentile(voxels, (_DARKEST, _BRIGHTEST)) if window is None else window
    if window is not None and low >= high:
        raise ValueError(f'a window goes from a lower to a higher intensity, got {low} to {high}')
    scaled = (voxels - low) / (high - low if high > low else 1)
    return np.round(255 * scaled.clip(0, 1)).astype(np.uint8)


def _check_series(
    slices: Sequence[Any], images: Sequence[np.ndarray], files: Sequence[str | Path]
) -> None:
    """Refuses what is not one stack of grey slices."""
    first = slices[0]
    for one, image, path in zip(slices, images, files, strict=True):
        kind = one.get('PhotometricInterpretation')
        if image.ndim != 2 or kind not in ('MONOCHROME1', 'MONOCHROME2'):
            raise ValueError(
                f'{path}: expected one grey slice (MONOCHROME1 or 2), got {kind} of the shape '
                f'{image.shape}; split files of several frames, and export colour as PNG'
            )
        missing = [
            key
            for key in ('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing')
            if key not in one
        ]
        if missing:
            raise ValueError(f'{path}: {", ".join(missing)} must say where the slice is; missing')
        if one.get('SeriesInstanceUID') != first.get('SeriesInstanceUID'):
            raise ValueError(
                f'{path} is of another series than {files[0]}; put each into a folder of its own'
            )
        for key in ('ImageOrientationPatient', 'PixelSpacing'):
            if not np.allclose(one[key].value, first[key].value, atol=1e-4):
                raise ValueError(f'{path}: {key} differs from that of {files[0]}')
        if image.shape != images[0].shape:
            raise ValueError(f'{path}: {image.shape} pixels, but {files[0]} has {images[0].shape}')


def _affine(
    first: Any, rows: np.ndarray, columns: np.ndarray, places: np.ndarray, folder: Path
) -> np.ndarray:
    """From (column, row, slice) to RAS+ millimetres (DICOM PS3.3 C.7.6.2.1.1, which is LPS+).

    ``rows`` is the direction along a row, ``columns`` the one along a column.
    """
    steps = np.diff(places, axis=0)
    if len(steps):
        step = steps.mean(axis=0)
        distances = np.linalg.norm(steps, axis=1)
        if np.abs(steps - step).max() > 0.05 * np.linalg.norm(step) or distances.min() == 0:
            raise ValueError(
                f'{folder}: the slices must be evenly spaced, but are {distances.min():.3g} to '
                f'{distances.max():.3g} mm apart; is one missing or there twice?'
            )
    else:
        step = np.cross(rows, columns) * float(first.get('SliceThickness') or 1)
    down, across = map(float, first.PixelSpacing)  # between rows, between columns
    affine = np.eye(4)
    affine[:3] = np.stack([rows * across, columns * down, step, places[0]], axis=1)
    return np.diag([-1, -1, 1, 1]) @ affine


def _own_window(slices: Sequence[Any]) -> tuple[float, float] | None:
    """Black and white by DICOM PS3.3 C.11.2.1.2.1, if all slices agree."""
    windows = set()
    for one in slices:
        values = [one.get(key) or 0 for key in ('WindowCenter', 'WindowWidth')]
        windows.add(tuple(float(np.atleast_1d(value)[0]) for value in values))  # of several, first
    center, width = windows.pop()
    if windows or width <= 1:
        return None
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
