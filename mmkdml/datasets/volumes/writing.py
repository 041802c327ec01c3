"""Store the NIfTI files of a case as slices in NumPy files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.datasets.volumes.intensity import CT, foreground_statistics, sampling_step, scheme_of
from mmkdml.datasets.volumes.nifti import NiftiFile
from mmkdml.datasets.volumes.store import (
    DTYPES,
    IGNORED,
    Case,
    blocks,
    case_intensity,
    read_case,
    slice_axes,
)
from mmkdml.files import atomic_path, file_sha256, json_text, reserve, write_atomically

# Part of the settings of a stored case. Increase it when the stored values change.
_VERSION = 1


@dataclass(frozen=True)
class SourceCase:
    """Files of a case.

    Attributes:
        name: Name of the case.
        images: Its images: one per channel, or one with all channels on the fourth axis.
        label: Its label.
    """

    name: str
    images: tuple[NiftiFile, ...]
    label: NiftiFile


def store_case(
    source: SourceCase,
    folder: Path,
    axis: int,
    channels: Sequence[str],
    classes: int,
    ignore: int | None = None,
    replace: bool = True,
) -> Case:
    """Store a case, unless it was already stored from the same files with the same settings.

    The description of the case is written last, so that a conversion that was stopped is repeated,
    as is one whose arrays are damaged.

    Args:
        source: Files of the case, on one grid.
        folder: Folder of the stored volumes.
        axis: Axis of the files that becomes that of the slices.
        channels: Names of the channels.
        classes: Number of classes; labels are 0 to ``classes - 1``.
        ignore: Label that becomes 255.
        replace: Replace a case that was stored from other files or settings.

    Raises:
        FileExistsError: If the case is stored otherwise and ``replace`` is not set.
        OSError: If the disk has too little space.
        ValueError: If a file is damaged, or has invalid voxels or labels.
    """
    files = [*source.images, source.label]
    settings = dict(
        version=_VERSION, axis=axis, channels=list(channels), classes=classes, ignore=ignore
    )
    # Images and label may have the same name in their folders.
    hashes = {f'{one.path.parent.name}/{one.path.name}': file_sha256(one.path) for one in files}
    origin = dict(files=hashes, **settings)
    axes = slice_axes(axis)
    sizes = tuple(source.label.shape[one] for one in axes)
    paths = {kind: folder / f'{source.name}{kind}' for kind in ('.npy', '_label.npy', '.json')}
    try:
        stored = read_case(folder, source.name)
    except (FileNotFoundError, ValueError):
        stored = None
    is_same = stored is not None and stored.source == origin
    if stored is not None and is_same and _is_complete(paths, sizes, channels):
        return stored
    if stored is not None and not is_same and not replace:
        raise FileExistsError(
            f'{folder} contains {source.name} from other files or settings. Choose another '
            'folder, or replace it with --force'
        )
    paths['.json'].unlink(missing_ok=True)
    with atomic_path(paths['.npy']) as image, atomic_path(paths['_label.npy']) as label:
        shape = (sizes[0], len(channels), *sizes[1:])
        _create(image, shape, common_type(source.images))
        for number, file in enumerate(source.images):
            _fill(image, file, axes, number)
        _create(label, sizes, np.dtype(np.uint8))
        _fill(label, source.label, axes, None, _label_reader(source.label, classes, ignore))
        intensity = case_intensity(_slices(image))
        filled = [bool(_filled(part).any()) for part in _slices(label)]
        foreground = _foreground(image, label, channels)
    case = Case(
        name=source.name,
        channels=list(channels),
        axes=list(axes),
        affine=source.images[0].affine.tolist(),
        spacing=[float(source.images[0].spacing[one]) for one in axes],
        shape=list(source.label.shape[:3]),
        intensity=[list(one) for one in intensity],
        foreground=foreground,
        filled=[number for number, one in enumerate(filled) if one],
        source=origin,
    )
    write_atomically(paths['.json'], json_text(asdict(case)).encode())
    return case


def common_type(files: Sequence[NiftiFile]) -> np.dtype:
    """Return the smallest type that represents all values exactly, or float32."""
    if any(file.is_scaled or file.dtype.itemsize > 2 or file.dtype.kind == 'f' for file in files):
        return np.dtype(np.float32)
    kind = np.result_type(*(file.dtype for file in files))
    kind = np.dtype(np.int16) if kind == np.int8 else kind.newbyteorder('=')
    return kind if kind.name in DTYPES else np.dtype(np.float32)


def _is_complete(
    paths: Mapping[str, Path], sizes: tuple[int, ...], channels: Sequence[str]
) -> bool:
    """Return whether the stored arrays have their shapes, and all of their bytes."""
    try:
        image, label = (np.load(paths[kind], mmap_mode='r') for kind in ('.npy', '_label.npy'))
    except (OSError, EOFError, ValueError):
        return False
    return image.shape == (sizes[0], len(channels), *sizes[1:]) and label.shape == sizes


def _create(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    with path.open('xb') as file:
        header = dict(descr=np.lib.format.dtype_to_descr(dtype), fortran_order=False, shape=shape)
        np.lib.format.write_array_header_1_0(file, header)
        reserve(file, file.tell() + math.prod(shape) * dtype.itemsize)


def _fill(
    path: Path,
    file: NiftiFile,
    axes: tuple[int, int, int],
    number: int | None,
    convert: Callable[[np.ndarray], np.ndarray] = lambda slab: slab,
) -> None:
    """Write a file to a stored array: an image at channel ``number`` and after, or a label."""
    for channel, start, slab in file.slabs():
        # Mapped again for each slab, because written pages count as memory while they are mapped.
        stored = np.load(path, mmap_mode='r+')
        part = stored if number is None else stored[:, number + channel]
        place = [slice(None)] * 3
        place[axes.index(2)] = slice(start, start + slab.shape[2])
        part[tuple(place)] = convert(slab).transpose(axes)


def _label_reader(
    file: NiftiFile, classes: int, ignore: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    def convert(slab: np.ndarray) -> np.ndarray:
        valid = (slab >= 0) & (slab < classes)
        if slab.dtype.kind == 'f':
            valid &= slab == np.rint(slab)
        ignored = slab == (-1 if ignore is None else ignore)
        valid |= ignored if ignore is not None else False
        if not valid.all():
            found = np.unique(slab[~valid])
            more = ', ...' if len(found) > 5 else ''
            raise ValueError(
                f'{file.path}: expected the labels 0 to {classes - 1} of dataset.json'
                f'{"" if ignore is None else f" and {ignore} to ignore"}, got '
                f'{", ".join(f"{value:g}" for value in found[:5])}{more} in '
                f'{int((~valid).sum())} voxels'
            )
        labels = slab.astype(np.uint8)
        if ignore is not None:
            labels[ignored] = IGNORED
        return labels

    return convert


def _slices(path: Path) -> Iterator[np.ndarray]:
    return (one for (block,) in blocks(path) for one in block)


def _filled(labels: np.ndarray) -> np.ndarray:
    return (labels > 0) & (labels != IGNORED)


def _foreground(image: Path, label: Path, channels: Sequence[str]) -> list[dict[str, Any] | None]:
    """Return the statistics of the foreground of each CT channel; see :class:`Case`."""
    indices = [index for index, name in enumerate(channels) if scheme_of(name) == CT]
    if not indices:
        return [None] * len(channels)
    step = sampling_step(sum(int(_filled(part).sum()) for (part,) in blocks(label)))
    found: Mapping[int, list[np.ndarray]] = {index: [] for index in indices}
    before = 0
    for voxels, labels in blocks(image, label):
        mask = _filled(labels)
        for index in indices:
            found[index].append(voxels[:, index][mask][-before % step :: step])
        before += int(mask.sum())
    return [
        foreground_statistics(np.concatenate(found[index])) if index in found else None
        for index in range(len(channels))
    ]
