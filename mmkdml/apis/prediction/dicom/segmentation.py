"""Writing masks as DICOM segmentation objects (PS3.3 A.51) that refer to their source images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.dicom.files import open_dicom
from mmkdml.apis.prediction.dicom.segments import Code, Segment
from mmkdml.apis.prediction.volume import Volume
from mmkdml.optional import require
from mmkdml.version import __version__

# Elements that a segmentation copies from its source; they may be empty (type 2).
_COPIED = (
    *('PatientID', 'PatientName', 'PatientBirthDate', 'PatientSex'),
    *('StudyID', 'StudyDate', 'StudyTime', 'AccessionNumber'),
)
_UIDS = ('SOPClassUID', 'SOPInstanceUID', 'SeriesInstanceUID', 'StudyInstanceUID')


class SegmentationError(ValueError):
    """A series lacks an element that segmentation objects require."""


def require_highdicom() -> Any:
    """Import highdicom; see :func:`mmkdml.optional.require`."""
    return require('highdicom', extra='medical', purpose='DICOM segmentation objects')


def write_segmentation(
    masks: np.ndarray,
    volume: Volume,
    segments: Sequence[Segment],
    algorithm: str,
    path: str | Path,
    description: str = '',
) -> None:
    """Write a mask as a binary DICOM segmentation object on the grid of its source images.

    Each class is a segment, whose number is the index of the class, and refers to the instances
    and frames that it was predicted for. Empty frames are left out, unless all are empty.

    Args:
        masks: (N, H, W), class indices, of the same shape as the volume's slices.
        volume: The volume, of :func:`~mmkdml.apis.prediction.dicom.read_dicom`.
        segments: Segments of the classes from 1 on.
        algorithm: Name of the algorithm that made the mask, up to 64 characters.
        path: File to write.
        description: Description of the series, cut to 64 characters.

    Raises:
        SegmentationError: If the source images lack an element that the standard requires.
        ValueError: If highdicom is not installed, the volume is not DICOM, or the masks differ in
            shape from the slices or have more classes than ``segments``.
    """
    hd = require_highdicom()
    if not volume.frames:
        raise ValueError('Invalid volume: expected a DICOM series, got another format')
    if masks.shape != volume.slices.shape or masks.min() < 0 or masks.max() > len(segments):
        raise ValueError(
            f'Invalid masks: expected shape {volume.slices.shape}, as the slices, and values from '
            f'0 to {len(segments)}, got {masks.shape} and {masks.min()} to {masks.max()}'
        )
    with _errors(volume):
        sources, ordered = _sources(masks, volume)
        first = sources[0]
        family = hd.sr.CodedConcept('123110', 'DCM', 'Artificial Intelligence')
        identification = hd.AlgorithmIdentificationSequence(algorithm, family, __version__)
        described = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=segment.label,
                segmented_property_category=_concept(segment.category),
                segmented_property_type=_concept(segment.type),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=identification,
            )
            for number, segment in enumerate(segments, start=1)
        ]
        made = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=ordered.astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=hd.UID(),
            series_number=min(int(first.get('SeriesNumber') or 0) * 100 + 1, 2**31 - 1),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer='mmkdml',
            manufacturer_model_name=algorithm,
            software_versions=__version__,
            device_serial_number='0',
            content_description=algorithm,
            series_description=description[:64] or algorithm,
        )
        made.save_as(path)


def _sources(masks: np.ndarray, volume: Volume) -> tuple[list[Any], np.ndarray]:
    """Return the headers of the source images, and the masks in the order of their frames."""
    paths = list(dict.fromkeys(path for path, _ in volume.frames))
    sources = [open_dicom(path) for path in paths]
    for path, source in zip(paths, sources, strict=True):
        missing = [key for key in _UIDS if not source.get(key)]
        if not missing and 'FrameOfReferenceUID' not in source and _has_position(source):
            missing = ['FrameOfReferenceUID']
        if missing:
            raise SegmentationError(
                f'{path}: {missing[0]}: expected a UID, which segmentation objects require, got '
                'none. Predict without --segments, which writes NIfTI'
            )
        for key in _COPIED:
            if key not in source:
                setattr(source, key, None)
    order = np.argsort([index for _, index in volume.frames], kind='stable')
    return sources, masks[order]


def _has_position(source: Any) -> bool:
    return 'ImagePositionPatient' in source or 'PerFrameFunctionalGroupsSequence' in source


def _concept(code: Code) -> Any:
    return require_highdicom().sr.CodedConcept(code.value, code.scheme, code.meaning)


@contextmanager
def _errors(volume: Volume) -> Iterator[None]:
    """Convert errors of highdicom, which checks the elements of the source images."""
    logger = logging.getLogger('highdicom')
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about empty masks
    try:
        yield
    except (SegmentationError, OSError):
        raise
    except Exception as error:  # depends on the source images
        reason = ' '.join(str(error).split())
        raise SegmentationError(
            f'{volume.frames[0][0]}: expected a series that segmentation objects support, got '
            f'{type(error).__name__}: {reason}. Predict without --segments, which writes NIfTI'
        ) from error
    finally:
        logger.setLevel(level)
