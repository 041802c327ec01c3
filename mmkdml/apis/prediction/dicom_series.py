"""DICOM series as slices with their place in space.

Needs pydicom and nibabel, optional packages of ``pip install mmkdml[medical]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.dicom_files import open_dicom
from mmkdml.apis.prediction.volumes import Volume, check_number, package, readable
from mmkdml.apis.prediction.windowing import CHUNK, windowed

# What all slices of a series share, and what says where a slice is, in so many numbers.
_SHARED = ('PhotometricInterpretation', 'SeriesInstanceUID', 'Rows', 'Columns')
_PLACE = {'ImagePositionPatient': 3, 'ImageOrientationPatient': 6, 'PixelSpacing': 2}


def read_dicom(
    files: Sequence[str | Path],
    window: tuple[float, float] | None = None,
    max_voxels: int | None = None,
    max_pixels: int | None = None,
) -> Volume:
    """Reads the slices of one DICOM series, as they were acquired, in the order of their places.

    Args:
        files: Of one series, in any order.
        window: Rescaled intensities (Hounsfield units in CT) that become black and white. Default:
            the series' own window where all slices have one and the same, or else the 0.5th and
            99.5th percentile.
        max_voxels: A series of more is refused before its pixels are decoded.
        max_pixels: The same for one slice.

    Raises:
        ValueError: If pydicom or nibabel, which writes the masks, is missing, a file cannot be
            read or is too large, or the files are not one series of parallel, evenly spaced grey
            slices of one size.
    """
    package('pydicom')
    package('nibabel')
    if not files:
        raise ValueError('a DICOM series needs at least one file, got none')
    slices, headers = [], []
    for path in files:
        with readable(path, 'DICOM'):
            slices.append(open_dicom(path))
        headers.append(_header(slices[-1], path))
    _check_series(headers, files)
    folder, size = Path(files[0]).parent, (headers[0]['Rows'], headers[0]['Columns'])
    shape = (len(slices), *size)
    check_number(shape, max_voxels, folder)
    check_number(size, max_pixels, files[0])
    order, affine = _arranged(slices[0], headers, folder)
    with readable(folder, 'DICOM window'):
        window = _own_window(slices) if window is None else window
    ordered = [files[index] for index in order]
    voxels = windowed(lambda: _chunks(ordered, size), math.prod(shape), window, folder)
    voxels = voxels.reshape(shape)
    if headers[0]['PhotometricInterpretation'] == 'MONOCHROME1':  # the lowest value is white
        voxels = 255 - voxels
    return Volume(voxels, affine, np.array([[0, 1], [1, 1], [2, 1]]))


def _chunks(files: Sequence[str | Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the rescaled pixels of the slices, one file after the other."""
    rescale = package('pydicom').pixels.apply_modality_lut
    for path in files:
        with readable(path, 'DICOM'):
            one = open_dicom(path, size)
            pixels = one.pixel_array.reshape(size).reshape(-1)
            for start in range(0, len(pixels), CHUNK):
                values = rescale(pixels[start : start + CHUNK], one)
                yield np.asarray(values, dtype=np.float32)


def _header(one: Any, path: str | Path) -> dict[str, Any]:
    """What is needed of a slice's header; numbers that say a place as arrays.

    Raises:
        ValueError: If it is not that of one grey slice, or does not say where the slice is.
    """
    with readable(path, 'DICOM'):
        header = {key: one.get(key) for key in _SHARED}
        frames = one.get('NumberOfFrames') or 1
    kind, size = header['PhotometricInterpretation'], (header['Rows'], header['Columns'])
    whole = all(isinstance(number, int) and number > 0 for number in size)  # may be several
    if kind not in ('MONOCHROME1', 'MONOCHROME2') or frames != 1 or not whole:
        raise ValueError(
            f'{path}: expected one grey slice (MONOCHROME1 or 2), got {kind} of {size[0]} x '
            f'{size[1]} pixels in {frames} frame(s); split files of several frames, and export '
            'colour as PNG'
        )
    for key, number in _PLACE.items():
        with readable(path, 'DICOM'):
            value = one.get(key)
            header[key] = np.array([] if value is None else value, dtype=float)
        if header[key].shape != (number,) or not np.isfinite(header[key]).all():
            raise ValueError(
                f'{path}: {key} must be {number} numbers, which say where the slice is; got {value}'
            )
    directions = header['ImageOrientationPatient'].reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-3):
        raise ValueError(
            f'{path}: ImageOrientationPatient must be two directions of length 1 at right angles, '
            f'got {directions.tolist()}'
        )
    if header['PixelSpacing'].min() <= 0:
        raise ValueError(f'{path}: PixelSpacing must be above 0, got {header["PixelSpacing"]}')
    return header


def _check_series(headers: Sequence[dict[str, Any]], files: Sequence[str | Path]) -> None:
    """Refuses what is not one stack of slices.

    Raises:
        ValueError: If a slice differs from the first.
    """
    first = headers[0]
    for header, path in zip(headers, files, strict=True):
        if header['SeriesInstanceUID'] != first['SeriesInstanceUID']:
            raise ValueError(
                f'{path} is of another series than {files[0]}; put each into a folder of its own'
            )
        for key in ('ImageOrientationPatient', 'PixelSpacing'):
            if not np.allclose(header[key], first[key], atol=1e-4):
                raise ValueError(f'{path}: {key} differs from that of {files[0]}')
        for key in _SHARED:
            if header[key] != first[key]:
                raise ValueError(
                    f'{path}: {key} is {header[key]}, but {first[key]} in {files[0]}; put each '
                    'kind into a folder of its own'
                )


def _arranged(
    first: Any, headers: Sequence[dict[str, Any]], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The order of the slices, and the affine: from (column, row, slice) to RAS+ millimetres.

    By DICOM PS3.3 C.7.6.2.1.1, whose millimetres are LPS+.

    Raises:
        ValueError: If the slices are not evenly spaced.
    """
    rows, columns = headers[0]['ImageOrientationPatient'].reshape(2, 3)  # along a row, a column
    normal = np.cross(rows, columns)
    positions = np.stack([header['ImagePositionPatient'] for header in headers])
    order = np.argsort(positions @ normal, kind='stable')
    steps = np.diff(positions[order], axis=0)
    if len(steps):
        step = steps.mean(axis=0)
        distances = steps @ normal
        if np.abs(steps - step).max() > 0.05 * np.linalg.norm(step) or distances.min() < 1e-3:
            raise ValueError(
                f'{folder}: the slices must be evenly spaced, but are {distances.min():.3g} to '
                f'{distances.max():.3g} mm apart; is one missing or there twice?'
            )
    else:
        with readable(folder, 'DICOM'):
            step = normal * float(first.get('SliceThickness') or 1)
    down, across = headers[0]['PixelSpacing']  # between rows, between columns
    affine = np.eye(4)
    affine[:3] = np.stack([rows * across, columns * down, step, positions[order[0]]], axis=1)
    return order, np.diag([-1, -1, 1, 1]) @ affine


def _own_window(slices: Sequence[Any]) -> tuple[float, float] | None:
    """Black and white by DICOM PS3.3 C.11.2.1.2.1, if all slices agree."""
    windows = set()
    for one in slices:
        values = [one.get(key) or 0 for key in ('WindowCenter', 'WindowWidth')]
        windows.add(tuple(float(np.atleast_1d(value)[0]) for value in values))  # of several, first
    center, width = windows.pop()
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    if windows or width <= 1 or not 0 < high - low < math.inf:  # a center may be too far out
        return None
    return low, high
