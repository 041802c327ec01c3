"""Reading DICOM series as slices."""

from __future__ import annotations

import io
import math
import operator
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmkdml.apis.prediction.volume import Volume, check_voxels, reading, require_medical
from mmkdml.apis.prediction.windowing import CHUNK, apply_window

# Attributes that must be equal in all slices.
_SHARED = ('SeriesInstanceUID', 'PhotometricInterpretation', 'Rows', 'Columns')
# Attributes of a slice's position in space, and their lengths.
_GEOMETRY = {'ImagePositionPatient': 3, 'ImageOrientationPatient': 6, 'PixelSpacing': 2}
_LARGEST_HEADER = 2**24  # bytes of a deflated file other than pixels
_JPEG_LS = b'\xff\xd8\xff\xf7'  # start of image and of frame
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # tags of double, float and integer pixels


def read_dicom(
    files: Sequence[str | Path],
    window: tuple[float, float] | None = None,
    max_voxels: int | None = None,
    max_pixels: int | None = None,
) -> Volume:
    """Read one DICOM series as acquired, with its slices sorted by position.

    The pixels are decoded slice by slice, so that memory is bounded by the 8-bit result.

    Args:
        files: Files of one series, in any order.
        window: Rescaled intensities (Hounsfield units in CT) that become black and white. Default:
            the series' own window if all slices have the same, otherwise the 0.5th and 99.5th
            percentile.
        max_voxels: Largest number of voxels, checked before they are decoded. Default: no limit.
        max_pixels: Largest number of pixels of a slice. Default: no limit.

    Raises:
        ValueError: If pydicom or nibabel (which writes the masks) is not installed, a file is
            unreadable or too large, or the files are not one series of parallel, evenly spaced
            gray slices of the same size.
    """
    require_medical('pydicom')
    require_medical('nibabel')
    if not files:
        raise ValueError('Invalid DICOM series: expected at least one file, got none')
    slices, headers = [], []
    for path in files:
        with reading(path, 'DICOM'):
            slices.append(_open(path))
        headers.append(_header(slices[-1], path))
    _check_series(headers, files)
    folder, size = Path(files[0]).parent, (headers[0]['Rows'], headers[0]['Columns'])
    shape = (len(slices), *size)
    check_voxels(shape, max_voxels, folder)
    check_voxels(size, max_pixels, files[0])
    order, affine = _sort(slices[0], headers, folder)
    with reading(folder, 'DICOM window'):
        window = _own_window(slices) if window is None else window
    ordered = [files[index] for index in order]
    voxels = apply_window(lambda: _chunks(ordered, size), math.prod(shape), window, folder)
    voxels = voxels.reshape(shape)
    if headers[0]['PhotometricInterpretation'] == 'MONOCHROME1':  # the lowest value is white
        voxels = 255 - voxels
    return Volume(voxels, affine, np.array([[0, 1], [1, 1], [2, 1]]))


def _chunks(files: Sequence[str | Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the rescaled pixels of the slices, one file after the other."""
    rescale = require_medical('pydicom').pixels.apply_modality_lut
    for path in files:
        with reading(path, 'DICOM'):
            one = _open(path, size)
            pixels = one.pixel_array.reshape(size).reshape(-1)
            for start in range(0, len(pixels), CHUNK):
                values = rescale(pixels[start : start + CHUNK], one)
                yield np.asarray(values, dtype=np.float32)


def _open(path: str | Path, size: tuple[int, int] | None = None) -> Any:
    """Read a file, with a limit on its decompressed size.

    Args:
        path: The file.
        size: (rows, columns) of its image. Default: read only the elements before the pixels.

    Raises:
        ValueError: If a deflated file is larger than such an image, or a compressed image decodes
            to another size.
    """
    pydicom = require_medical('pydicom')
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get('TransferSyntaxUID') != pydicom.uid.DeflatedExplicitVRLittleEndian:
        one = pydicom.dcmread(path, stop_before_pixels=size is None)
    else:
        one = _inflate(path, size)
        one.file_meta = meta
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    if size is not None:
        _check_frame(one, size)
    return one


def _inflate(path: str | Path, size: tuple[int, int] | None) -> Any:
    """Read a deflated file up to its expected size; pydicom would inflate all of it."""
    pydicom = require_medical('pydicom')
    with Path(path).open('rb') as file:
        file.seek(132)  # after the preamble and prefix
        for _ in pydicom.filereader.data_element_generator(
            file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2
        ):
            pass
        deflated = file.read()
    limit = _LARGEST_HEADER + 8 * (size[0] * size[1] if size else 0)
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, limit + 1)
    if size is not None and len(content) > limit:
        raise ValueError(
            f'expected at most {limit} bytes for {size[0]} x {size[1]} pixels, got more after '
            'decompression'
        )
    stop = None if size else (lambda tag, *_: tag in _PIXELS)
    return pydicom.filereader.read_dataset(io.BytesIO(content), False, True, stop_when=stop)


def _check_frame(one: Any, size: tuple[int, int]) -> None:
    """Raise ValueError if a compressed image decodes to more pixels than its header declares."""
    pydicom = require_medical('pydicom')
    syntax = one.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    frame = pydicom.encaps.get_frame(one.PixelData, 0, number_of_frames=1)
    if syntax == pydicom.uid.RLELossless:
        limit = 4 * size[0] * size[1] * 2 + 2**16  # twice 32 bits per pixel
        if len(frame) > limit:
            raise ValueError(f'expected at most {limit} bytes of run lengths, got {len(frame)}')
        return
    if frame.startswith(_JPEG_LS):  # header: length (2 bytes), precision (1), rows, columns
        decoded = struct.unpack_from('>HH', frame, len(_JPEG_LS) + 3)
    else:
        try:
            with Image.open(io.BytesIO(frame)) as image:
                decoded = image.size[::-1]
        except OSError:  # Pillow does not decode this format
            return
    if decoded != tuple(size):
        raise ValueError(f'expected a compressed image of {tuple(size)} pixels, got {decoded}')


def _header(one: Any, path: str | Path) -> dict[str, Any]:
    """Return the attributes of a slice that are shared or geometric, the latter as arrays.

    Raises:
        ValueError: If the file is not a single gray slice, or its geometry is missing or invalid.
    """
    with reading(path, 'DICOM'):
        header = {key: one.get(key) for key in _SHARED}
        frames = one.get('NumberOfFrames') or 1
    kind, size = header['PhotometricInterpretation'], (header['Rows'], header['Columns'])
    valid = all(isinstance(number, int) and number > 0 for number in size)  # may be a list
    if kind not in ('MONOCHROME1', 'MONOCHROME2') or frames != 1 or not valid:
        raise ValueError(
            f'{path}: expected one gray slice (MONOCHROME1 or MONOCHROME2), got {kind}, '
            f'{size[0]} x {size[1]} pixels, {frames} frame(s). Split multi-frame files, and export '
            'color images as PNG'
        )
    for key, number in _GEOMETRY.items():
        with reading(path, 'DICOM'):
            value = one.get(key)
            header[key] = np.array([] if value is None else value, dtype=float)
        if header[key].shape != (number,) or not np.isfinite(header[key]).all():
            raise ValueError(f'{path}: {key}: expected {number} finite numbers, got {value}')
    directions = header['ImageOrientationPatient'].reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-3):
        raise ValueError(
            f'{path}: ImageOrientationPatient: expected two orthogonal unit vectors, got '
            f'{directions.tolist()}'
        )
    if header['PixelSpacing'].min() <= 0:
        raise ValueError(
            f'{path}: PixelSpacing: expected positive numbers, got {header["PixelSpacing"]}'
        )
    return header


def _check_series(headers: Sequence[dict[str, Any]], files: Sequence[str | Path]) -> None:
    """Raise ValueError if a slice does not belong to the series of the first one."""
    first = headers[0]
    for header, path in zip(headers, files, strict=True):
        for key in (*_SHARED, 'ImageOrientationPatient', 'PixelSpacing'):
            equal = partial(np.allclose, atol=1e-4) if key in _GEOMETRY else operator.eq
            if not equal(header[key], first[key]):
                raise ValueError(
                    f'{path}: {key}: expected {first[key]}, as in {files[0]}, got {header[key]}. '
                    'Put each series into its own folder'
                )


def _sort(
    first: Any, headers: Sequence[dict[str, Any]], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Sort the slices along their normal and compute the affine.

    DICOM PS3.3 C.7.6.2.1.1 gives LPS+ millimeters. Slices may be sheared, as with a tilted gantry.

    Returns:
        Indices of the slices in order, and the affine from (column, row, slice) to RAS+.

    Raises:
        ValueError: If the slices are not evenly spaced.
    """
    along_row, along_column = headers[0]['ImageOrientationPatient'].reshape(2, 3)
    normal = np.cross(along_row, along_column)
    positions = np.stack([header['ImagePositionPatient'] for header in headers])
    order = np.argsort(positions @ normal, kind='stable')
    steps = np.diff(positions[order], axis=0)
    if len(steps):
        step = steps.mean(axis=0)
        distances = steps @ normal
        if np.abs(steps - step).max() > 0.05 * np.linalg.norm(step) or distances.min() < 1e-3:
            raise ValueError(
                f'{folder}: expected evenly spaced slices, got distances of {distances.min():.3g} '
                f'to {distances.max():.3g} mm. Check for missing and duplicate slices'
            )
    else:
        with reading(folder, 'DICOM'):
            step = normal * float(first.get('SliceThickness') or 1)
    row_spacing, column_spacing = headers[0]['PixelSpacing']
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along_row * column_spacing, along_column * row_spacing, step, positions[order[0]]], axis=1
    )
    return order, np.diag([-1, -1, 1, 1]) @ affine


def _own_window(slices: Sequence[Any]) -> tuple[float, float] | None:
    """Return the limits of the window (DICOM PS3.3 C.11.2.1.2.1); None unless all slices agree."""
    windows = set()
    for one in slices:
        values = [one.get(key) or 0 for key in ('WindowCenter', 'WindowWidth')]
        windows.add(tuple(float(np.atleast_1d(value)[0]) for value in values))  # the first one
    center, width = windows.pop()
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    if windows or width <= 1 or not 0 < high - low < math.inf:  # huge centers cancel the width
        return None
    return low, high
