"""Reading of images and binary masks.

Converters, loading transforms, image caches, figures and prediction all use these functions, so
that they get the same pixels or the same error. :mod:`~mmkdml.datasets.image_files` opens and
checks the files.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from mmkdml.datasets.image_files import (
    apply_orientation,
    check_kind,
    check_opaque,
    check_size,
    decoder_errors,
    exif_orientation,
    has_more_pages,
    open_image,
    stored_size,
    unsupported,
)

#: Default limit of the size of an image, in pixels.
MAX_PIXELS = 178_956_970
#: Limit of the number of pages of a TIFF stack.
MAX_PAGES = 5000
#: Limit of the pixels of all pages of a stack, as a multiple of the limit of an image.
PAGES_PER_IMAGE = 10
#: Part of the key of image caches. Increase it whenever a file may be decoded to other pixels.
READER_VERSION = 1
#: Pixels of an image with EXIF orientation that a mask may refer to: before or after rotation.
DRAWN_ON = ('stored', 'shown')

_GREY = ('1', 'L', 'LA')
_MASKS = ('L', '1', 'P', 'LA', 'PA')
# Conversions to a channel order, from RGB (True) or grey (False).
_CONVERSIONS: dict[tuple[str | None, bool], int] = {
    ('BGR', True): cv2.COLOR_RGB2BGR,
    ('L', True): cv2.COLOR_RGB2GRAY,
    ('RGB', False): cv2.COLOR_GRAY2RGB,
    ('BGR', False): cv2.COLOR_GRAY2BGR,
}
# Limit of the bytes of an image file that are read in addition to its pixels.
_METADATA_BYTES = 2**26


@dataclass(frozen=True)
class ImageHeader:
    """Size and orientation of an image file.

    Attributes:
        size: Width and height of the stored pixels.
        orientation: EXIF orientation, 1 to 8; 1 if there is none.
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height after EXIF rotation, as in a viewer."""
        return self.size[::-1] if self.orientation > 4 else self.size


def read_header(path: str | Path) -> ImageHeader:
    """Read size and orientation of an image, without checking or decoding the pixels.

    Raises:
        ValueError: If the file is not an image.
    """
    with open_image(path) as image, decoder_errors(path):
        if image.format == 'PNG' and b'eXIf' in Path(path).read_bytes():
            image.load()  # EXIF may come after the pixels
        return ImageHeader(stored_size(image), exif_orientation(image))


def read_image(
    path: str | Path,
    order: str | None = 'RGB',
    modes: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Read the pixels of an image, rotated by its EXIF orientation as in a viewer.

    Args:
        path: File with one image: 8 bits per channel, grey, RGB or palette, without transparent
            pixels. An opaque alpha channel is dropped.
        order: ``'RGB'`` or ``'BGR'`` for (H, W, 3), ``'L'`` for grey values (H, W), None for (H, W)
            of a grey file and (H, W, 3) RGB otherwise.
        modes: Allowed modes of Pillow, such as ``('RGB',)``. Default: all supported ones.
        max_pixels: Maximum number of pixels, checked before decoding.

    Returns:
        The pixels, uint8, writable.

    Raises:
        ValueError: If the file is unreadable or of an unsupported kind.
    """
    return read_image_and_header(path, order, modes, max_pixels)[0]


def read_image_and_header(
    path: str | Path,
    order: str | None = 'RGB',
    modes: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[np.ndarray, ImageHeader]:
    """Read the pixels and the header of an image; see :func:`read_image`."""
    with open_image(path) as image:
        _check(image, path, max_pixels)
        with decoder_errors(path):
            if has_more_pages(image):
                found = f'several pages or frames ({image.format})'
                raise unsupported(path, found, 'a single image', 'Save each page as a file')
        pixels, header = _decode(image, path, order)
        if modes is not None and image.mode not in modes:
            raise ValueError(
                f'{path}: expected an image of mode {" or ".join(modes)}, got {image.mode}'
            )
    return pixels, header


def read_pages(path: str | Path, max_pixels: int = MAX_PIXELS) -> list[np.ndarray]:
    """Read all pages of a TIFF stack, or the single image of another file, like :func:`read_image`.

    All pages are checked before the first one is decoded. They must have the same size of at most
    ``max_pixels`` pixels, and together at most ten times as many.

    Raises:
        ValueError: If the file is unreadable, or a page is not supported or has another size.
    """
    with open_image(path) as image:
        with decoder_errors(path):
            is_stack = isinstance(image, TiffImageFile) and has_more_pages(image)
        if not is_stack:
            return [read_image(path, None, max_pixels=max_pixels)]
        size, pages = stored_size(image), 0
        for pages in _seek_each(image, path):
            if pages > MAX_PAGES:
                raise ValueError(
                    f'{path}: expected at most {MAX_PAGES} pages, got more. Split the stack'
                )
            where = f' on page {pages}'
            _check(image, path, max_pixels, where)
            if stored_size(image) != size:
                raise ValueError(
                    f'{path}: expected pages of one size {size}, got {stored_size(image)}{where}'
                )
        check_size(size[0] * size[1] * pages, PAGES_PER_IMAGE * max_pixels, path)
        return [_decode(image, path, None, True)[0] for _ in _seek_each(image, path)]


def read_binary_mask(
    path: str | Path, header: ImageHeader | None = None, drawn_on: str | None = None
) -> np.ndarray:
    """Read a mask as 0 (background) and 1 (foreground), (H, W), uint8.

    Foreground is 255 in a mask of {0, 255} and 1 in one of {0, 1}. In a palette image these are the
    grey values of the colors, not the indices.

    Args:
        path: The mask.
        header: Header of its image. The mask is checked for size, and rotated to match the image
            after EXIF rotation.
        drawn_on: ``'stored'`` if the mask refers to the pixels of its image before EXIF rotation,
            ``'shown'`` if after it. Required only if the size of the mask fits both.

    Raises:
        ValueError: If the file is unreadable, not grey, palette or black-and-white, has other
            values, or does not fit its image.
    """
    pixels = read_image(path, 'L', _MASKS)
    foreground = pixels > 0
    top = pixels.max()
    if top not in (0, 1, 255) or not np.array_equal(pixels, top * foreground):
        values = np.unique(pixels).tolist()
        first = ', '.join(map(str, values[:8])) + (', ...' if len(values) > 8 else '')
        raise ValueError(
            f'{path}: expected a binary mask, {{0, 255}} or {{0, 1}}, got the values {first}'
        )
    mask = foreground.astype(np.uint8)
    return mask if header is None else fit_mask(mask, header, drawn_on, path)


def fit_mask(
    mask: np.ndarray, header: ImageHeader, drawn_on: str | None, path: str | Path
) -> np.ndarray:
    """Check the size of a mask (H, W), and rotate it; see :func:`read_binary_mask`."""
    size = mask.shape[1], mask.shape[0]
    fits = [
        name
        for name, one in zip(DRAWN_ON, (header.size, header.shown_size), strict=True)
        if one == size
    ]
    if not fits:
        width, height = header.shown_size
        raise ValueError(
            f'{path}: the mask is {size[0]}x{size[1]}, its image {width}x{height}. Masks must have '
            'the size of their images'
        )
    rotated = apply_orientation(mask, header.orientation)
    if np.array_equal(rotated, mask):
        return mask
    if drawn_on is None and len(fits) > 1:
        raise ValueError(
            f'{path}: ambiguous mask for an image with EXIF orientation {header.orientation}: the '
            f'size {size[0]}x{size[1]} fits the stored and the shown pixels. Set --masks-drawn-on '
            'of the converter, or masks_drawn_on of the data set, to stored or shown'
        )
    if drawn_on is not None and drawn_on not in fits:
        raise ValueError(
            f'{path}: the mask is {size[0]}x{size[1]} and was drawn on the {fits[0]} pixels of its '
            f'image with EXIF orientation {header.orientation}, but masks_drawn_on is {drawn_on!r}'
        )
    return rotated if (drawn_on or fits[0]) == 'stored' else mask


def _check(image: Image.Image, path: str | Path, max_pixels: int, where: str = '') -> None:
    check_size(image.width * image.height, max_pixels, path)
    with decoder_errors(path):
        check_kind(image, path, where)


def _decode(
    image: Image.Image, path: str | Path, order: str | None, is_page: bool = False
) -> tuple[np.ndarray, ImageHeader]:
    """Decode a checked image, or a page of a stack, and rotate it by its EXIF orientation."""
    size, orientation = stored_size(image), exif_orientation(image)
    # OpenCV decodes the most common formats faster, to the same pixels.
    is_tiff = isinstance(image, TiffImageFile)
    plain = image.mode in ('RGB', 'L')
    if image.format in ('JPEG', 'MPO') or (is_tiff and plain and orientation == 1 and not is_page):
        with decoder_errors(path):
            pixels = _decode_by_opencv(image, order or image.mode)
        return apply_orientation(pixels, orientation), ImageHeader(size, orientation)
    image.info.pop('xmp', None)  # Pillow would apply its orientation, but only to TIFF
    with decoder_errors(path):
        image.load()
        check_opaque(image, path)
        color = image.mode not in _GREY
        pixels = np.asarray(image if plain else image.convert('RGB' if color else 'L'))
    conversion = _CONVERSIONS.get((order, color))
    # A copy, because arrays of Pillow are read-only.
    pixels = pixels.copy() if conversion is None else cv2.cvtColor(pixels, conversion)
    if not is_tiff:  # Pillow has already rotated a TIFF
        orientation = exif_orientation(image)  # again: in a PNG, EXIF may come after the pixels
        pixels = apply_orientation(pixels, orientation)
    return pixels, ImageHeader(size, orientation)


def _decode_by_opencv(image: Image.Image, order: str) -> np.ndarray:
    file: Any = image.fp  # type: ignore[attr-defined]
    limit = 12 * image.width * image.height + _METADATA_BYTES
    if isinstance(file, io.BytesIO):
        content = file.getvalue()  # without a copy
    else:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        content = file.read(min(limit, size))
    # OpenCV 4 silently fills the missing rows of a truncated JPEG.
    is_jpeg = content.startswith(b'\xff\xd8')
    if is_jpeg and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda'):
        raise OSError('the image is truncated')
    grey = order == 'L'
    flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[:2] != image.size[::-1]:
        raise OSError('OpenCV failed to decode it')
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if order == 'RGB' else pixels


def _seek_each(image: Image.Image, path: str | Path) -> Iterator[int]:
    """Seek each page of a TIFF in order and yield its number, from 1."""
    for number in count():
        with decoder_errors(path):
            try:
                image.seek(number)
            except EOFError:
                return
        yield number + 1
