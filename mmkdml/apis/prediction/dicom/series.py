"""Cases in a folder of DICOM files: series of slices, multi-frame files and radiographs."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkdml.apis.prediction.dicom.files import open_dicom
from mmkdml.apis.prediction.dicom.frames import TOMOGRAPHIC
from mmkdml.apis.prediction.volume import reading, require_medical

_LONGEST_LABEL = 64
_LISTED = 3  # files in a warning


class Series(NamedTuple):
    """Files of one case.

    Attributes:
        files: The files in the given order.
        label: Name of the series, unique among those of the folder. None if it is the only one.
        is_file: Whether the case is one file that is no slice of a series.
    """

    files: tuple[Path, ...]
    label: str | None = None
    is_file: bool = False


def is_dicom(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Recognize DICOM by suffix or, if the suffix is unknown (often part of a UID), by content.

    Args:
        path: The file; need not exist.
        suffixes: Suffixes of all image formats, in lower case.
    """
    if path.name.lower().endswith(suffixes):
        return path.suffix.lower() == '.dcm'
    if path.name == 'DICOMDIR' or not os.path.isfile(path):  # an index; a FIFO or folder
        return False
    try:
        with path.open('rb') as file:
            return file.read(132)[128:] == b'DICM'
    except OSError:
        return False


def split_series(files: Sequence[Path]) -> list[Series]:
    """Split the DICOM files of a folder into cases.

    Slices are grouped by SeriesInstanceUID; a multi-frame file, a radiograph and a film are cases
    of their own. Objects that are not images (structures, segmentations, dose, reports, indices)
    are skipped with a warning. An unreadable file is added to the series if there is only
    one, so that reading the series raises an error; otherwise it is a case of its own.

    Args:
        files: The files.

    Returns:
        The cases: series sorted by label, then single files in the given order. All files as one
        series if pydicom is not installed, or none is readable; reading them raises the error.
    """
    slices: dict[Any, list[Path]] = {}
    labels: dict[Any, str] = {}
    singles, unreadable = [], []
    others: dict[str, list[Path]] = {}
    try:
        require_medical('pydicom')
    except ValueError:
        return [Series(tuple(files))]
    for path in files:
        try:
            with reading(path, 'DICOM'):
                header = open_dicom(path)
                kind = _kind(header)
                # Part of file names; broken files may have anything.
                uid = re.sub(r'[^\w.-]+', '_', str(header.get('SeriesInstanceUID', ''))).strip('_.')
                label = _label(header, uid)
                is_slice = (header.get('NumberOfFrames') or 1) == 1 and (
                    header.get('ImagePositionPatient') is not None or kind in TOMOGRAPHIC
                )
        except ValueError:
            unreadable.append(path)
            continue
        if kind is None or 'Image' in kind:
            if 'Rows' not in header:  # truncated
                unreadable.append(path)
                continue
        else:
            others.setdefault(kind, []).append(path)
            continue
        if is_slice:
            slices.setdefault(uid, []).append(path)
            labels.setdefault(uid, label)
        else:
            singles.append(path)
    for kind, paths in others.items():
        shown = ', '.join(map(str, paths[:_LISTED])) + (', ...' if len(paths) > _LISTED else '')
        warnings.warn(
            f'skipped {len(paths)} DICOM files that are not images, {kind}: {shown}', stacklevel=2
        )
    if len(slices) == 1 or not (slices or singles):
        # In the order of the files, because the first one names the case in messages.
        chosen = {*unreadable, *(path for paths in slices.values() for path in paths)}
        series = [Series(tuple(path for path in files if path in chosen))] if chosen else []
        unreadable = []
    else:
        counts = Counter(label.casefold() for label in labels.values())
        names = {
            uid: label if counts[label.casefold()] == 1 else f'{label}_{uid}'
            for uid, label in labels.items()
        }
        series = [Series(tuple(slices[uid]), name) for uid, name in names.items()]
        series.sort(key=lambda one: str(one.label))
    alone = {*singles, *unreadable}
    return series + [Series((path,), is_file=True) for path in files if path in alone]


def _kind(header: Any) -> str | None:
    """Return the name of the storage class; None if it is unknown or private."""
    uid = header.get('SOPClassUID') or header.file_meta.get('MediaStorageSOPClassUID')
    name = None if uid is None else require_medical('pydicom').uid.UID(uid).name
    return None if name == uid else name


def _label(header: Any, uid: str) -> str:
    """Return the number and description of a series as a file name, or its UID."""
    parts = [header.get(key) for key in ('SeriesNumber', 'SeriesDescription')]
    text = '_'.join(str(part) for part in parts if part not in (None, ''))
    return re.sub(r'[^\w.-]+', '_', text).strip('_.')[:_LONGEST_LABEL] or uid or 'series'
