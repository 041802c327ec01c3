"""What is to be predicted: files, folders, stacks, volumes and arrays, one case each."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from mmkdml.apis.medical_images import Volume, read_dicom, read_nifti
from mmkdml.datasets.images import read_image

_NIFTI = ('.nii', '.nii.gz')
_SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.webp', '.dcm', *_NIFTI)
# A mode that OpenCV turns into three channels of 8 bits without losing what it shows.
_MODES = ('RGB', 'L', 'P', '1')


@dataclass(frozen=True)
class ReadOptions:
    """How cases are read.

    Attributes:
        plane: See :func:`~mmkdml.apis.medical_images.read_nifti`.
        window: Intensities of volumes that become black and white; None to choose for each volume.
        max_pixels: Of one image; a larger one is refused before it is read.
    """

    plane: str = 'axial'
    window: tuple[float, float] | None = None
    max_pixels: int = 50_000_000


@dataclass(frozen=True, eq=False)
class Source:
    """A case that was not read yet.

    Attributes:
        name: Of the file without its suffix, relative to the folder it was found in; unique.
        files: One, or those of a DICOM series; none for an array.
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


def find_sources(images: Any, exclude: str | None = None) -> list[Source]:
    """The cases in what a user gave.

    Args:
        images: A file, a folder, an array (H, W) or (H, W, 3), or a sequence of these. Of a folder
            and its subfolders all files that are images by their suffix are taken. Files that are
            DICOM by suffix or content are one series together, if they are in one folder.
        exclude: Leaves out files whose names match, such as ``'*_mask.*'``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        TypeError: If something else is given.
        ValueError: If a folder holds no image, or nothing was given.
    """
    several = isinstance(images, Sequence) and not isinstance(images, str)
    sources: list[Source] = []
    for item in images if several else [images]:
        if isinstance(item, np.ndarray):
            sources.append(Source(f'array_{len(sources)}', pixels=item))
        elif not isinstance(item, (str, Path)):
            raise TypeError(
                f'expected a path, an array or a sequence of these, got {type(item).__name__}'
            )
        elif Path(item).is_dir():
            sources += _of_folder(Path(item), exclude)
        elif Path(item).is_file():
            if not fnmatch(Path(item).name, exclude or ''):
                sources.append(Source(Path(item).name, (Path(item),)))
        else:
            raise FileNotFoundError(f'There is no image or folder {item}')
    if not sources:
        raise ValueError('expected at least one image, got none')
    return _named(sources)


def read_source(source: Source, options: ReadOptions) -> Case:
    """Reads a case, or checks it if it is an image file.

    Raises:
        ValueError: If it cannot be read, has channels or values that the networks do not know, or
            is too large; the message names the file.
    """
    if source.pixels is not None:
        _check_pixels(source.pixels, options)
        return Case(source, [source.pixels])
    path = source.files[0]
    if _is_dicom(path):
        volume = read_dicom(source.files, options.window)
    elif path.name.lower().endswith(_NIFTI):
        volume = read_nifti(path, options.plane, options.window)
    else:
        return Case(source, _images_of(path, options))
    return Case(source, list(volume.slices), volume)


def _of_folder(folder: Path, exclude: str | None) -> list[Source]:
    series: dict[Path, list[Path]] = {}
    sources = []
    for path in sorted(folder.rglob('*')):
        if not path.is_file() or path.name.startswith('.') or fnmatch(path.name, exclude or ''):
            continue
        if _is_dicom(path):
            series.setdefault(path.parent, []).append(path)
        elif path.name.lower().endswith(_SUFFIXES):
            sources.append(Source(path.relative_to(folder).as_posix(), (path,)))
    for place, files in series.items():
        name = place.relative_to(folder) if place != folder else Path(folder.resolve().name)
        sources.append(Source(name.as_posix(), tuple(files)))
    if not sources:
        raise ValueError(
            f'{folder} holds no image: expected files with one of {", ".join(_SUFFIXES)}, or DICOM'
            + (f', other than {exclude}' if exclude else '')
        )
    return sources


def _is_dicom(path: Path) -> bool:
    """By its suffix or, where that is unknown (often it is a part of a UID), by its content."""
    if path.name.lower().endswith(_SUFFIXES):
        return path.suffix.lower() == '.dcm'
    with path.open('rb') as file:
        return file.read(132)[128:] == b'DICM'


def _named(sources: list[Source]) -> list[Source]:
    """Without suffixes, but for names that would then be one and the same; those are numbered."""
    stems = [_without_suffix(source.name) for source in sources]
    shared = {stem for stem, number in Counter(stems).items() if number > 1}
    names: Counter[str] = Counter()
    unique = []
    for source, stem in zip(sources, stems, strict=True):
        name = source.name if stem in shared else stem
        names[name] += 1
        name += f'_{names[name]}' if names[name] > 1 else ''
        unique.append(Source(name, source.files, source.pixels))
    return unique


def _without_suffix(name: str) -> str:
    suffix = next((one for one in (*_NIFTI[::-1], *_SUFFIXES) if name.lower().endswith(one)), '')
    return name[: len(name) - len(suffix)]


def _images_of(path: Path, options: ReadOptions) -> list[np.ndarray | None]:
    """None for a file of one image, which is decoded once to see that it is whole."""
    with _readable(path), Image.open(path) as image:
        width, height = image.size
        is_stack = image.format == 'TIFF' and getattr(image, 'n_frames', 1) > 1
    _check_size(width * height, path, options)
    if not is_stack:
        read_image(path, _MODES)
        return [None]
    pages = []
    with _readable(path), Image.open(path) as image:
        for page in ImageSequence.Iterator(image):
            pages.append((page.mode, np.array(page.convert('L') if page.mode in '1P' else page)))
    for number, (mode, _) in enumerate(pages, start=1):
        if mode not in _MODES:
            raise ValueError(
                f'{path}: expected pages of mode {" or ".join(_MODES)}, got {mode} on page '
                f'{number}; scale its values to 8 bits'
            )
    return [pixels for _, pixels in pages]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():  # of broken tags and many pixels; we say so ourselves
            warnings.simplefilter('ignore')
            yield
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise ValueError(f'{path}: unreadable image ({type(error).__name__}: {error})') from error


def _check_pixels(pixels: np.ndarray, options: ReadOptions) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(
            'an array must be (H, W) grey or (H, W, 3) RGB of dtype uint8, got '
            f'{pixels.shape} {pixels.dtype}; give several images as a list'
        )
    if not pixels.size:
        raise ValueError(f'an array must have pixels, got the shape {pixels.shape}')
    _check_size(pixels.shape[0] * pixels.shape[1], f'an array {pixels.shape}', options)


def _check_size(pixels: int, what: str | Path, options: ReadOptions) -> None:
    if pixels > options.max_pixels:
        raise ValueError(
            f'{what}: {pixels / 1e6:.1f} megapixels are more than {options.max_pixels / 1e6:g}; '
            'cut it into tiles, or raise the limit (max_pixels, --max-megapixels)'
        )
