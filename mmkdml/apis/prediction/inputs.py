"""What is to be predicted: files, folders, stacks, volumes and arrays, one case each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.apis.prediction.dicom_series import read_dicom
from mmkdml.apis.prediction.volumes import PLANES, Volume, read_nifti
from mmkdml.datasets.image_files import check_size
from mmkdml.datasets.images import PAGES_PER_IMAGE, read_pages

_NIFTI = ('.nii', '.nii.gz')
#: How the names of files end that are taken for images.
SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.webp', '.dcm', *_NIFTI)


@dataclass(frozen=True)
class ReadOptions:
    """How cases are read.

    Attributes:
        plane: See :func:`~mmkdml.apis.prediction.volumes.read_nifti`.
        window: Intensities of volumes that become black and white; None to choose for each volume.
        max_pixels: Of one image; a larger one is refused before it is read. A volume, or a stack of
            pages, may have ten times as many.

    Raises:
        ValueError: If there is no such plane, or the window is empty.
    """

    plane: str = 'axial'
    window: tuple[float, float] | None = None
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise ValueError(f'plane must be one of {", ".join(PLANES)}; got {self.plane!r}')
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(
                f'a window goes from a lower to a higher intensity, got {self.window[0]} to '
                f'{self.window[1]}'
            )


@dataclass(frozen=True, eq=False)
class Source:
    """A case that was not read yet.

    Attributes:
        name: Of the file without its suffix, relative to the folder it was found in; unique.
        files: One, or those of a DICOM series; none for an array. What cannot be opened, a folder
            too, is one so that reading it tells.
        pixels: The array, None for files.
    """

    name: str
    files: tuple[Path, ...] = ()
    pixels: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Case:
    """A case as images.

    Attributes:
        source: Where it is from.
        images: In order; each (H, W) or (H, W, 3) RGB, uint8, or None for an image file, which the
            config's own pipeline loads.
        volume: Its place in space if it is a volume.
    """

    source: Source
    images: list[np.ndarray | None]
    volume: Volume | None = None


def find_sources(images: Any, exclude: str | None = None, number: bool = True) -> list[Source]:
    """The cases in what a user gave.

    Args:
        images: A file, a folder, an array (H, W) or (H, W, 3), or a sequence of these. Of a folder
            and its subfolders, linked ones too, all files that are images by their suffix are
            taken, but hidden ones. Files that are DICOM by suffix or content are one series
            together, if they are in one folder.
        exclude: Leaves out files whose names match, such as ``'*_mask.*'``.
        number: Number cases of the same name. Default: yes; otherwise they are an error.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        TypeError: If something else is given.
        ValueError: If a folder holds no image, or nothing was given; if two cases have the same
            name, without ``number``.
    """
    several = isinstance(images, Sequence) and not isinstance(images, str)
    sources: list[Source] = []
    series: dict[Path, int] = {}  # by folder, its index in the list
    for item in images if several else [images]:
        if isinstance(item, np.ndarray):
            sources.append(Source(f'array_{len(sources)}', pixels=item))
            continue
        if not isinstance(item, (str, Path)):
            raise TypeError(
                f'expected a path, an array or a sequence of these, got {type(item).__name__}'
            )
        found = [path for path in _files_of(Path(item)) if not fnmatch(path.name, exclude or '')]
        if not found and Path(item).is_dir():
            raise ValueError(
                f'{item} holds no image: expected files with one of {", ".join(SUFFIXES)}, or DICOM'
                + (f', other than {exclude}' if exclude else '')
            )
        for path in found:
            name = path.relative_to(item) if path != Path(item) else Path(path.name)
            folder = name.parent.as_posix() if name.parent.name else path.parent.resolve().name
            if not _is_dicom(path):
                sources.append(Source(name.as_posix(), (path,)))
            elif path.parent in series:
                index = series[path.parent]
                sources[index] = Source(folder, (*sources[index].files, path))
            else:
                series[path.parent] = len(sources)
                alone = path == Path(item)
                sources.append(Source(name.name if alone else folder, (path,)))
    if not sources:
        raise ValueError('expected at least one image, got none')
    return _named(sources, number)


def read_source(source: Source, options: ReadOptions) -> Case:
    """Reads a case, or checks it if it is an image file.

    Raises:
        ValueError: If it cannot be read, has channels or values that the networks do not know, or
            is too large; the message names the file.
    """
    if source.pixels is not None:
        _check_pixels(source.pixels, options)
        return Case(source, [source.pixels])
    path, most = source.files[0], PAGES_PER_IMAGE * options.max_pixels
    if _is_dicom(path):
        volume = read_dicom(source.files, options.window, most, options.max_pixels)
    elif path.name.lower().endswith(_NIFTI):
        volume = read_nifti(path, options.plane, options.window, most, options.max_pixels)
    else:
        return Case(source, _pages_of(path, options))
    return Case(source, list(volume.slices), volume)


def _files_of(top: Path) -> list[Path]:
    """The file itself, or what a folder holds of images and of what cannot be looked into.

    Raises:
        FileNotFoundError: If it is neither.
    """
    if top.is_file():
        return [top]
    if not top.is_dir():
        raise FileNotFoundError(f'There is no image or folder {top}')
    closed: list[str] = []
    seen, paths = set(), []
    for place, folders, files in os.walk(
        top, followlinks=True, onerror=lambda error: closed.append(error.filename)
    ):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        facts = os.stat(place)
        if (facts.st_dev, facts.st_ino) in seen:  # by a link, which may lead round in a circle
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        paths += [Path(place, name) for name in files if not name.startswith('.')]
    # Reading from a pipe would never end; what is not there is a broken link.
    paths = [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    images = [path for path in paths if path.name.lower().endswith(SUFFIXES) or _is_dicom(path)]
    barred = [path for path in paths if not os.access(path, os.R_OK)]
    return sorted({*images, *barred, *map(Path, closed)})


def _is_dicom(path: Path) -> bool:
    """By its suffix or, where that is unknown (often it is a part of a UID), by its content."""
    if path.name.lower().endswith(SUFFIXES):
        return path.suffix.lower() == '.dcm'
    if path.name == 'DICOMDIR' or not os.path.isfile(path):  # an index of files; a pipe, a folder
        return False
    try:
        with path.open('rb') as file:
            return file.read(132)[128:] == b'DICM'
    except OSError:
        return False


def _named(sources: list[Source], number_equal: bool) -> list[Source]:
    """Without suffixes, but for names that would then be one and the same; those are numbered."""
    # Names of files may hold bytes that are no text, which tables and JSON do not.
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
                one, other = (str(given.files[0]) for given in (taken[new], source))
                raise ValueError(
                    f'{one} and {other} have the same name {new}: expected one output for each. '
                    'Give each input once, and give the folder above several folders in their place'
                    ' or predict them into different folders'
                )
            number += 1
            new = f'{wanted}_{number}'
        taken[new] = source
        unique.append(Source(new, source.files, source.pixels))
    return unique


def _without_suffix(name: str) -> str:
    suffix = next((one for one in (*_NIFTI[::-1], *SUFFIXES) if name.lower().endswith(one)), '')
    return name[: len(name) - len(suffix)]


def _pages_of(path: Path, options: ReadOptions) -> list[np.ndarray | None]:
    """The pages of a stack; None for a file of one image, which is decoded to check it."""
    pages = read_pages(path, options.max_pixels)
    return [None] if len(pages) == 1 else [*pages]


def _check_pixels(pixels: np.ndarray, options: ReadOptions) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(
            'an array must be (H, W) grey or (H, W, 3) RGB of dtype uint8, got '
            f'{pixels.shape} {pixels.dtype}; give several images as a list'
        )
    if not pixels.size:
        raise ValueError(f'an array must have pixels, got the shape {pixels.shape}')
    check_size(pixels.shape[0] * pixels.shape[1], options.max_pixels, f'an array {pixels.shape}')
