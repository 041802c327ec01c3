"""Inputs of a prediction: image files, folders, stacks, volumes and arrays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmkdml.apis.prediction.arrays import check_array
from mmkdml.apis.prediction.case_files import NIFTI, channel_file, grouped_channels
from mmkdml.apis.prediction.dicom import is_dicom, read_dicom, split_series
from mmkdml.apis.prediction.nifti import check_plane, read_nifti
from mmkdml.apis.prediction.volume import Volume, VolumeFormat
from mmkdml.apis.prediction.windowing import check_window
from mmkdml.datasets.channels import NUMPY_SUFFIX, read_channels
from mmkdml.datasets.images import PAGES_PER_IMAGE, read_pages

#: Suffixes of the files that are read as images.
SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.webp', '.dcm', *NIFTI)
# Suffixes that are not part of a case's name, longer ones first.
_NAMED = (*NIFTI[::-1], *SUFFIXES, NUMPY_SUFFIX)


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading images and volumes.

    Attributes:
        plane: Plane of the slices, see :func:`~mmkdml.apis.prediction.nifti.read_nifti`.
        window: Intensities of volumes that become black and white. Default: chosen per volume.
        max_pixels: Largest number of pixels of an image; a volume or stack may have ten times as
            many. Checked before the pixels are read.
        channels: Channels of the images that the config's ``LoadMultiChannelImage`` loads, which
            receives NIfTI intensities as stored unless there is a ``window``. Default: gray and RGB
            images.

    Raises:
        ValueError: If the plane is unknown, or the window is empty.
    """

    plane: str = 'axial'
    window: tuple[float, float] | None = None
    max_pixels: int = 50_000_000
    channels: int | None = None
    form: VolumeFormat | None = None

    def __post_init__(self) -> None:
        check_plane(self.plane)
        if self.window is not None:
            check_window(self.window)
        if self.form is not None and (self.plane, self.window) != ('axial', None):
            raise ValueError(
                f'Invalid plane {self.plane!r} or window {self.window}: expected none (--plane, '
                '--window), because the network was trained on volumes and has its own'
            )


@dataclass(frozen=True, eq=False)
class Source:
    """A case before it is read.

    Attributes:
        name: Unique name: the file's path without suffix, relative to the input folder.
        files: The file, the files of a DICOM series or of the channels of a NIfTI case, or none
            for an array. Unreadable files and folders are included so that reading them raises an
            error.
        pixels: The array; None for files.
    """

    name: str
    files: tuple[Path, ...] = ()
    pixels: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Case:
    """A case as a list of images.

    Attributes:
        source: The file, series or array that was read.
        images: Images in order: (H, W) or (H, W, 3) RGB, uint8, or (H, W, C); None for an image
            file, which the config's own pipeline loads.
        volume: The volume; None for images.
    """

    source: Source
    images: Sequence[np.ndarray | None] | np.ndarray
    volume: Volume | None = None


def find_sources(
    images: Any, exclude: str | None = None, number: bool = True, channels: int | None = None
) -> list[Source]:
    """Find the cases in files, folders and arrays.

    Folders are searched recursively, including linked ones, for files with an image suffix or
    DICOM content; hidden files and folders are skipped. The DICOM files of one folder are split by
    :func:`~mmkdml.apis.prediction.dicom.split_series`. A series has the name of its folder; several
    have those of their numbers and descriptions in addition. Radiographs and multi-frame files are
    named like other images. NIfTI files in one folder that are named as nnU-Net's channels,
    ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ..., form the case ``CASE``; the first is 0000.

    Args:
        images: File, folder, array (H, W) or (H, W, C), or a sequence of these.
        exclude: Pattern of file names to skip, such as ``'*_mask.*'``.
        number: Append numbers to equal names. If False, equal names raise an error.
        channels: See :class:`ReadOptions`; folders are then also searched for NumPy files.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        TypeError: If an input is neither a path nor an array.
        ValueError: If there is no image, or two cases have the same name and ``number`` is False.
    """
    several = isinstance(images, Sequence) and not isinstance(images, str)
    sources: list[Source] = []
    series: dict[Path, int] = {}  # by folder, its index in the list
    names: dict[Path, str] = {}  # of DICOM files
    for item in images if several else [images]:
        if isinstance(item, np.ndarray):
            sources.append(Source(f'array_{len(sources)}', pixels=item))
            continue
        if not isinstance(item, (str, Path)):
            raise TypeError(
                'Invalid images: expected a path, an array or a sequence of these, got '
                f'{type(item).__name__}'
            )
        suffixes = SUFFIXES if channels is None else (*SUFFIXES, NUMPY_SUFFIX)
        files = _files_of(Path(item), suffixes)
        found = [path for path in files if not fnmatch(path.name, exclude or '')]
        if not found and Path(item).is_dir():
            raise ValueError(
                f'No images in {item}: expected DICOM or files with one of {", ".join(suffixes)}'
                + (f', except {exclude}' if exclude else '')
            )
        for path in found:
            name = path.relative_to(item) if path != Path(item) else Path(path.name)
            folder = name.parent.as_posix() if name.parent.name else path.parent.resolve().name
            if not _is_dicom(path):
                sources.append(Source(name.as_posix(), (path,)))
                continue
            names[path] = name.as_posix()
            if path.parent in series:
                index = series[path.parent]
                sources[index] = Source(folder, (*sources[index].files, path))
            else:
                series[path.parent] = len(sources)
                is_file = path == Path(item)
                sources.append(Source(name.name if is_file else folder, (path,)))
    cases = [
        _dicom_cases(source, names) if index in series.values() else [source]
        for index, source in enumerate(sources)
    ]
    if not any(cases):
        others = ', '.join(map(str, series)) or 'none'
        raise ValueError(
            f'Invalid images: expected at least one, got {others}'
            + (' with DICOM objects that are not images' if series else '')
        )
    sources = [case for group in cases for case in group]
    return _with_unique_names(_with_grouped_channels(sources), number)


def read_source(source: Source, options: ReadOptions) -> Case:
    """Read a case; an image file is only checked, because the config's pipeline loads it.

    Raises:
        ValueError: If the case is unreadable or too large, or its channels or values are not
            supported.
    """
    path = source.files[0] if source.files else Path(source.name)
    is_nifti = path.name.lower().endswith(NIFTI)
    if options.form is not None and not is_nifti:
        raise ValueError(
            f'{path}: expected a NIfTI volume, because the network was trained on volumes, got '
            'another input. Convert DICOM series with dcm2niix'
        )
    if source.pixels is not None:
        check_array(source.pixels, options.channels, options.max_pixels)
        return Case(source, [source.pixels])
    max_voxels = PAGES_PER_IMAGE * options.max_pixels
    if options.channels is not None and not is_nifti and not _is_dicom(path):
        read_channels(path, options.channels, options.max_pixels)
        return Case(source, [None])
    if options.channels not in (None, 1) and not is_nifti:
        raise ValueError(
            f'{path}: expected an image with {options.channels} channels, got a DICOM series of '
            f'one. Save each slice with its channels as {NUMPY_SUFFIX} (H, W, C)'
        )
    limits = (options.window, max_voxels, options.max_pixels)
    if _is_dicom(path):
        volume = read_dicom(source.files, *limits)
    elif is_nifti:
        channels = (1, 3) if options.channels is None else (options.channels,)
        form = options.form or VolumeFormat(channels, raw=options.channels is not None)
        volume = read_nifti(source.files, options.plane, *limits, form)
    else:
        pages = read_pages(path, options.max_pixels)  # decodes a single page, too
        return Case(source, [None] if len(pages) == 1 else [*pages])
    return Case(source, volume.slices, volume)


def _files_of(top: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the file itself, or the images and unreadable entries of a folder, sorted."""
    if top.is_file():
        return [top]
    if not top.is_dir():
        raise FileNotFoundError(f'No such image or folder: {top}')
    unreadable: list[str] = []
    seen, paths = set(), []
    for place, folders, files in os.walk(
        top, followlinks=True, onerror=lambda error: unreadable.append(error.filename)
    ):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # links may form a cycle
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        paths += [Path(place, name) for name in files if not name.startswith('.')]
    # Reading a FIFO would block; a path that does not exist is a broken link.
    paths = [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    images = [path for path in paths if path.name.lower().endswith(suffixes) or _is_dicom(path)]
    denied = [path for path in paths if not os.access(path, os.R_OK)]
    return sorted({*images, *denied, *map(Path, unreadable)})


def _is_dicom(path: Path) -> bool:
    return is_dicom(path, SUFFIXES)


def _dicom_cases(source: Source, names: dict[Path, str]) -> list[Source]:
    """Split the DICOM files of a folder into cases; ``names`` are those of single files."""
    cases = []
    for files, label, is_file in split_series(source.files):
        name = source.name if label is None else f'{source.name}/{label}'
        cases.append(Source(names[files[0]] if is_file else name, files))
    return cases


def _with_grouped_channels(sources: list[Source]) -> list[Source]:
    """Join the NIfTI files of each case that has a channel 0."""
    found, files_of = [], [source.files for source in sources]
    for group in grouped_channels([files[0] if files else None for files in files_of]):
        first = sources[group[0]]
        files = tuple(file for index in group for file in files_of[index])
        name = channel_file(Path(first.name).name) if len(files) == len(group) else None
        if name and name.channel == 0:
            case = Path(first.name).with_name(f'{name.case}{name.suffix}').as_posix()
            found.append(Source(case, files))
        else:
            found.append(first)
        if len(files) > 1 and len(group) > 1:
            names = ', '.join(file.name for file in files)
            print_log(f'{files[0].parent}: {names} are the channels of one case', 'current')
    return found


def _with_unique_names(sources: list[Source], number_equal: bool) -> list[Source]:
    """Remove suffixes unless names would become equal, and number the names that still are."""
    # File names may hold invalid UTF-8, which tables and JSON do not support.
    names = [os.fsencode(source.name).decode(errors='replace') for source in sources]
    stems = Counter(map(_without_suffix, names))
    taken: dict[str, Source] = {}
    unique = []
    for source, name in zip(sources, names, strict=True):
        stem = _without_suffix(name)
        wanted = new = name if stems[stem] > 1 else stem
        number = 1
        while new in taken:
            if not number_equal:
                raise ValueError(
                    f'{taken[new].files[0]} and {source.files[0]} have the same name {new}: '
                    'expected a different output file for each. Pass each input once; instead of '
                    'several folders, pass their parent or predict into different folders'
                )
            number += 1
            new = f'{wanted}_{number}'
        taken[new] = source
        unique.append(Source(new, source.files, source.pixels))
    return unique


def _without_suffix(name: str) -> str:
    suffix = next((one for one in _NAMED if name.lower().endswith(one)), '')
    return name[: len(name) - len(suffix)]
