"""Frames of DICOM files: slices of series and of multi-frame files, and radiographs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.dicom.files import Shape, check_decoder, open_dicom
from mmkdml.apis.prediction.volume import check_voxels, reading, require_medical

#: Attributes that must be equal in all slices of a series.
SHARED = ('SeriesInstanceUID', 'PhotometricInterpretation', 'Rows', 'Columns')
# Attributes of a slice in space: their lengths, and the functional group of multi-frame files.
_GEOMETRY = {
    'ImagePositionPatient': (3, 'PlanePositionSequence'),
    'ImageOrientationPatient': (6, 'PlaneOrientationSequence'),
    'PixelSpacing': (2, 'PixelMeasuresSequence'),
}
# Spacings of radiographs, the best known one first: in the patient, at the detector, on film.
_SPACINGS = ('PixelSpacing', 'ImagerPixelSpacing', 'NominalScannedPixelSpacing')
#: Storage classes whose slices must have a position, by the names of their UIDs.
TOMOGRAPHIC = tuple(
    f'{kind} Image Storage'
    for kind in ('CT', 'MR', 'Positron Emission Tomography', 'Enhanced CT', 'Enhanced MR',
                 'Enhanced PET', 'Legacy Converted Enhanced CT', 'Legacy Converted Enhanced MR',
                 'Legacy Converted Enhanced PET', 'X-Ray 3D Angiographic')
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Frame:
    """A gray image in a file.

    Attributes:
        path: The file.
        index: Number of the frame in the file, from 0.
        shape: Frames, rows and columns of the file.
        header: Elements of the file other than its pixels.
        rescale: Elements with the rescale slope and intercept, or the modality LUT.
        voi: Elements with the window or VOI LUT.
        spacing: (2,), distance of rows and of columns in millimeters; None if unknown.
        orientation: (6,), directions along a row and along a column; None if the frame has no
            position in the patient.
        position: (3,), center of the first pixel in millimeters, LPS+; None as before.
        thickness: Thickness in millimeters, 1 if unknown.
    """

    path: Path
    index: int
    shape: Shape
    header: Any
    rescale: Any
    voi: Any
    spacing: np.ndarray | None
    orientation: np.ndarray | None = None
    position: np.ndarray | None = None
    thickness: float = 1.0

    @property
    def label(self) -> str:
        """File name, with the number of the frame from 1 in multi-frame files."""
        number = f' frame {self.index + 1}' if self.shape[0] > 1 else ''
        return f'{self.path.name}{number}'


def frames_of(path: str | Path, max_voxels: int | None = None) -> list[Frame]:
    """Read the headers of the frames of a file, without its pixels.

    Enhanced multi-frame files have position, orientation, spacing, rescale slope and window for
    each frame or for all (DICOM PS3.3 C.7.6.16). Radiographs and films have no position.

    Args:
        path: The file.
        max_voxels: Largest number of pixels in all frames. Default: no limit.

    Raises:
        ValueError: If the file is unreadable, not gray or too large, its pixels are compressed in a
            format that cannot be decoded, or its geometry or rescaling is invalid.
    """
    path = Path(path)
    with reading(path, 'DICOM'):
        header = open_dicom(path)
        kind, *size = map(header.get, ('PhotometricInterpretation', 'Rows', 'Columns'))
        number = header.get('NumberOfFrames')
        number = 1 if number is None or number == '' else int(number)
    valid = all(isinstance(side, int) and side > 0 for side in size)  # may be a list
    if kind not in ('MONOCHROME1', 'MONOCHROME2') or not valid:
        raise ValueError(
            f'{path}: expected gray slices (MONOCHROME1 or MONOCHROME2), got {kind}, {size[0]} x '
            f'{size[1]} pixels. Export color images as PNG'
        )
    if number < 1:
        raise ValueError(f'{path}: NumberOfFrames: expected at least 1, got {number}')
    shape = (number, size[0], size[1])
    check_voxels(shape, max_voxels, path)
    if number > (size_of_file := path.stat().st_size):  # before an object is made of each
        raise ValueError(
            f'{path}: NumberOfFrames: expected at most the {size_of_file} bytes of the file, got '
            f'{number}'
        )
    with reading(path, 'DICOM'):
        groups = header.get('PerFrameFunctionalGroupsSequence')
        shared = header.get('SharedFunctionalGroupsSequence')
    if groups is not None and len(groups) != number:
        raise ValueError(
            f'{path}: PerFrameFunctionalGroupsSequence: expected {number} items, as NumberOfFrames,'
            f' got {len(groups)}'
        )
    check_decoder(header, path)
    return [
        _frame(path, index, shape, header, groups and groups[index], shared and shared[0])
        for index in range(number)
    ]


def _frame(path: Path, index: int, shape: Shape, header: Any, own: Any, shared: Any) -> Frame:
    """Return one frame; ``own`` and ``shared`` are its functional groups, or empty."""

    def elements(group: str) -> Any:
        for place in (own, shared):
            if place and place.get(group):
                return place.get(group)[0]
        return header

    with reading(path, 'DICOM'):
        rescale = elements('PixelValueTransformationSequence')
        voi = elements('FrameVOILUTSequence')
        measures = elements('PixelMeasuresSequence')
        values = {key: elements(group).get(key) for key, (_, group) in _GEOMETRY.items()}
        thickness = float(measures.get('SliceThickness') or 1)
        kind = require_medical('pydicom').uid.UID(header.get('SOPClassUID', '')).name
        for key in ('RescaleSlope', 'RescaleIntercept'):
            number = float(rescale.get(key, 1))
            if not math.isfinite(number) or (key == 'RescaleSlope' and not number):
                raise ValueError(f'{key}: expected a finite number, not a slope of 0, got {number}')
    without_position = values['ImagePositionPatient'] is None and kind not in TOMOGRAPHIC
    if without_position:
        found = {key: header.get(key) for key in _SPACINGS if header.get(key)}
        if values['PixelSpacing']:
            found = {'PixelSpacing': values['PixelSpacing'], **found}
        key, value = next(iter(found.items()), ('PixelSpacing', None))
        spacing = None if value is None else _spacing(path, key, value)
        return Frame(path, index, shape, header, rescale, voi, spacing, thickness=thickness)
    numbers = {key: _numbers(path, key, values[key], _GEOMETRY[key][0]) for key in _GEOMETRY}
    directions = numbers['ImageOrientationPatient'].reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-3):
        raise ValueError(
            f'{path}: ImageOrientationPatient: expected two orthogonal unit vectors, got '
            f'{directions.tolist()}'
        )
    return Frame(
        *(path, index, shape, header, rescale, voi),
        spacing=_spacing(path, 'PixelSpacing', values['PixelSpacing']),
        orientation=numbers['ImageOrientationPatient'],
        position=numbers['ImagePositionPatient'],
        thickness=thickness,
    )


def _numbers(path: Path, key: str, value: Any, length: int) -> np.ndarray:
    with reading(path, 'DICOM'):
        numbers = np.array([] if value is None else value, dtype=float)
    if numbers.shape != (length,) or not np.isfinite(numbers).all():
        raise ValueError(f'{path}: {key}: expected {length} finite numbers, got {value}')
    return numbers


def _spacing(path: Path, key: str, value: Any) -> np.ndarray:
    spacing = _numbers(path, key, value, 2)
    if spacing.min() <= 0:
        raise ValueError(f'{path}: {key}: expected positive numbers, got {spacing}')
    return spacing
