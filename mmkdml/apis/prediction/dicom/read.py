"""Reading DICOM series, multi-frame files and radiographs as slices."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.dicom.files import decode
from mmkdml.apis.prediction.dicom.frames import SHARED, Frame, frames_of
from mmkdml.apis.prediction.dicom.voi import Voi, own_voi
from mmkdml.apis.prediction.volume import Volume, check_voxels, reading, require_medical
from mmkdml.apis.prediction.windowing import (
    CHUNK,
    DEFAULT_PERCENTILES,
    apply_window,
    check_window,
    keep,
    percentiles,
)


def read_dicom(
    files: Sequence[str | Path],
    window: tuple[float, float] | None = None,
    max_voxels: int | None = None,
    max_pixels: int | None = None,
) -> Volume:
    """Read one DICOM series as acquired, with its slices sorted by position.

    The files are single slices, one enhanced multi-frame file, or one image without a position in
    the patient: a radiograph, or a film whose frames keep their order. The affine of the latter has
    the spacing of the pixels (1 mm if unknown) and the origin 0, as ITK reads them.

    The pixels are decoded frame by frame, so that memory is bounded by the 8-bit result and one
    file. Padding (PixelPaddingValue) becomes 0 and does not count for percentiles.

    Args:
        files: Files of one series, in any order.
        window: Rescaled intensities (Hounsfield units in CT) that become black and white. Default:
            the series' own window or VOI LUT if all slices have the same, otherwise the 0.5th and
            99.5th percentile.
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
    frames = [frame for path in files for frame in frames_of(path, max_voxels)]
    _check_series(frames, files)
    folder, first = Path(files[0]).parent, frames[0]
    check_voxels((len(frames), *first.shape[1:]), max_voxels, folder)
    check_voxels(first.shape[1:], max_pixels, first.path)
    if first.position is None:
        affine = np.diag([-1, -1, 1, 1]) @ _pixel_grid(first)
    else:
        frames, affine = _sort(frames, folder)
    if window is not None:
        check_window(window)
    with reading(folder, 'DICOM window'):
        voi = own_voi(frames) if window is None else Voi(*window)
    voxels = _to_8_bits(frames, voi, folder)
    return Volume(
        voxels.reshape(len(frames), *first.shape[1:]),
        affine,
        np.array([[0, 1], [1, 1], [2, 1]]),
        has_spacing=first.spacing is not None,
        frames=tuple((frame.path, frame.index) for frame in frames),
    )


def _to_8_bits(frames: Sequence[Frame], voi: Voi | None, folder: Path) -> np.ndarray:
    """Return the displayed values of all frames, flat, with padding as 0."""
    number = len(frames) * math.prod(frames[0].shape[1:])
    parts = keep(partial(_rescaled, frames, voi and voi.apply), number)
    padding = None
    if any(frame.header.get('PixelPaddingValue') is not None for frame in frames):
        padding = np.concatenate([padded for _, padded in parts()])
        if padding.all():
            return np.zeros(number, np.uint8)
    window = (voi.low, voi.high) if voi else None
    if padding is not None and window is None:
        low, high = percentiles(
            lambda: (values[~padded] for values, padded in parts()), DEFAULT_PERCENTILES, folder
        )
        # The values that are not padding may be constant.
        window = (low, high) if low < high else (low, float(np.nextafter(np.float32(low), np.inf)))
    voxels = apply_window(lambda: (values for values, _ in parts()), number, window, folder)
    if _is_inverted(frames[0].header):
        voxels = 255 - voxels
    if padding is not None:
        voxels[padding] = 0
    return voxels


def _rescaled(
    frames: Sequence[Frame], apply: Callable[[np.ndarray], np.ndarray] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield parts of the rescaled values, flat, and where they are padding."""
    rescale = require_medical('pydicom').pixels.apply_modality_lut
    for path, group in groupby(frames, key=lambda frame: frame.path):
        own = list(group)
        pixels = decode(path, [frame.index for frame in own], own[0].shape)
        for frame, stored in zip(own, pixels, strict=True):
            with reading(path, 'DICOM'):
                low, high = _padding_range(frame.header)
            for start in range(0, stored.size, CHUNK):
                with reading(path, 'DICOM'):
                    part = stored.reshape(-1)[start : start + CHUNK]
                    values = np.asarray(rescale(part, frame.rescale), dtype=np.float32)
                    values = apply(values) if apply else values
                yield values, (part >= low) & (part <= high)


def _padding_range(header: Any) -> tuple[float, float]:
    """Return the lowest and highest stored value of padding (DICOM PS3.3 C.7.5.1.1.2)."""
    values = [header.get(key) for key in ('PixelPaddingValue', 'PixelPaddingRangeLimit')]
    limits = [int(value) for value in values if value is not None]
    if values[0] is None:
        return math.inf, -math.inf
    if header.get('PixelRepresentation') == 1:  # often written as if it were unsigned
        limits = [value - 2**16 if value >= 2**15 else value for value in limits]
    return min(limits), max(limits)


def _is_inverted(header: Any) -> bool:
    """Return whether the lowest value is white (DICOM PS3.3 C.11.6.1.2, C.7.6.3.1.2)."""
    shape = header.get('PresentationLUTShape')
    return shape == 'INVERSE' if shape else header.PhotometricInterpretation == 'MONOCHROME1'


def _check_series(frames: Sequence[Frame], files: Sequence[str | Path]) -> None:
    """Raise ValueError if a frame does not belong to the series of the first one."""
    first = frames[0]
    if first.position is None and len(files) > 1:
        raise ValueError(
            f'{files[1]}: expected one file, because {files[0]} has no ImagePositionPatient and is '
            'not a slice of a volume'
        )
    for frame in frames:
        pairs = [(key, first.header.get(key), frame.header.get(key)) for key in SHARED]
        pairs += [
            ('ImageOrientationPatient', first.orientation, frame.orientation),
            ('PixelSpacing', first.spacing, frame.spacing),
        ]
        for key, expected, got in pairs:
            if key in SHARED or expected is None or got is None:
                equal = operator.eq if key in SHARED else operator.is_
            else:
                equal = partial(np.allclose, atol=1e-4)
            if not equal(got, expected):
                where = frame.path if frame.shape[0] == 1 else frame.path.parent / frame.label
                raise ValueError(
                    f'{where}: {key}: expected {expected}, as in {first.path.parent / first.label}'
                    f', got {got}. Put each series into its own folder'
                )


def _pixel_grid(frame: Frame) -> np.ndarray:
    """Return the affine from (column, row, frame) to millimeters from the first pixel."""
    rows, columns = (1, 1) if frame.spacing is None else frame.spacing
    return np.diag([columns, rows, 1, 1])


def _sort(frames: Sequence[Frame], folder: Path) -> tuple[list[Frame], np.ndarray]:
    """Sort the slices along their normal and compute the affine.

    DICOM PS3.3 C.7.6.2.1.1 gives LPS+ millimeters. Slices may be sheared, as with a tilted gantry.

    Returns:
        The frames in order, and the affine from (column, row, slice) to RAS+.

    Raises:
        ValueError: If the slices are not evenly spaced.
    """
    along_row, along_column = np.reshape(frames[0].orientation, (2, 3))  # type: ignore[arg-type]
    normal = np.cross(along_row, along_column)
    positions = np.stack([frame.position for frame in frames])  # type: ignore[misc]
    order = np.argsort(positions @ normal, kind='stable')
    steps = np.diff(positions[order], axis=0)
    ordered = [frames[index] for index in order]
    if len(steps):
        step = steps.mean(axis=0)
        distances = steps @ normal
        if np.abs(steps - step).max() > 0.05 * np.linalg.norm(step) or distances.min() < 1e-3:
            same = distances.min() < 1e-3
            place = int(distances.argmin() if same else distances.argmax())
            pair = f'{ordered[place].label} and {ordered[place + 1].label}'
            raise ValueError(
                f'{folder}: expected evenly spaced slices, got distances of {distances.min():.3g} '
                f'to {distances.max():.3g} mm: {pair} are '
                f'{"at the same position" if same else "furthest apart"}. Check for missing and '
                'duplicate slices'
            )
    else:
        step = normal * frames[0].thickness
    row_spacing, column_spacing = frames[0].spacing  # type: ignore[misc]
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along_row * column_spacing, along_column * row_spacing, step, positions[order[0]]], axis=1
    )
    return ordered, np.diag([-1, -1, 1, 1]) @ affine
