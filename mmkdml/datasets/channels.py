"""Reading of images with any number of channels: NumPy files, TIFF pages, images with alpha."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from mmkdml.datasets.image_files import (
    UnsupportedImageError,
    apply_orientation,
    bits_per_channel,
    check_size,
    decoder_errors,
    exif_orientation,
    has_more_pages,
    has_unsigned_samples,
    open_image,
    stored_channels,
    stored_size,
    unsupported,
)
from mmkdml.datasets.images import MAX_PIXELS, PAGES_PER_IMAGE, ImageHeader, read_image
from mmkdml.datasets.volumes.store import is_slice, read_slice

#: Suffix of the files with which :func:`read_channels` extends the image formats.
NUMPY_SUFFIX = '.npy'
#: Limit of the number of channels.
MAX_CHANNELS = 512
#: Types of the pixels. Other floating point types are converted to float32.
DTYPES = ('uint8', 'uint16', 'int16', 'float32')
# Modes of Pillow whose bands are channels.
_MODES = ('L', 'LA', 'RGB', 'RGBA', 'RGBX', 'I;16', 'I;16L', 'I;16B', 'F')
_EXPECTED = 'channels of uint8, or one of uint16 or float32'
_ADVICE = f'Save the channels as {NUMPY_SUFFIX} (H, W, C), or as pages of a TIFF'


def read_channels(
    path: str | Path, channels: int | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, ImageHeader]:
    """Read all channels of an image.

    =====================  ====================================================
    ``.npy``               array (H, W) or (H, W, C), recognized by its content
    TIFF of several pages  a channel per page, in their order
    other images           gray, gray and alpha, RGB, RGB and alpha: 1 to 4
                           channels; alpha is a channel like the others
    =====================  ====================================================

    Images are rotated by their EXIF orientation, as in :func:`~mmkdml.datasets.images.read_image`.

    Args:
        path: The file.
        channels: Expected number of channels. Default: any.
        max_pixels: Maximum of H * W, checked before decoding; all pages of a TIFF together may have
            ten times as many.

    Returns:
        Pixels (H, W, C), writable, in the order of the file, of a type in :data:`DTYPES`; and the
        header.

    Raises:
        ValueError: If the file is unreadable, or has another number of channels, another type, or
            NaN or infinite values.
    """
    if is_numpy(path):
        header = numpy_header(path)
        check_size(header.size[0] * header.size[1], max_pixels, path)
        pixels = _read_numpy(path)
    else:
        pixels, header = _read_image(path, max_pixels)
    if pixels.shape[2] != (channels or pixels.shape[2]):
        raise UnsupportedImageError(
            f'{path}: expected {channels} channels, got {pixels.shape[2]} in an image '
            f'{pixels.shape} (H, W, C). Set channels to those of the files, and in_channels of the '
            'backbones and mean and std accordingly'
        )
    if pixels.dtype.kind == 'f' and not np.isfinite(pixels).all():
        raise ValueError(f'{path}: expected finite pixels, got NaN or infinite values')
    return pixels, header


def numpy_header(path: str | Path) -> ImageHeader:
    """Read the size of an image in a NumPy file, without its pixels.

    Raises:
        ValueError: If the file is not an array (H, W) or (H, W, C).
    """
    with decoder_errors(path):  # maps the file, but reads only its header
        shape = np.load(path, mmap_mode='r', allow_pickle=False).shape
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnsupportedImageError(f'{path}: expected an array (H, W) or (H, W, C), got {shape}')
    return ImageHeader((shape[1], shape[0]))


def read_picture(path: str | Path) -> np.ndarray:
    """Read an image for figures, also a slice of a volume or one only :func:`read_channels` reads.

    Returns:
        (H, W, 3) uint8 RGB; see :func:`as_picture`.

    Raises:
        ValueError: If the file is unreadable or not supported.
    """
    if is_slice(path):
        return as_picture(read_slice(path))
    if not is_numpy(path):
        try:
            return read_image(path)
        except UnsupportedImageError as error:
            try:
                pixels, _ = read_channels(path)
            except ValueError:
                raise error from None
            return as_picture(pixels)
    return as_picture(read_channels(path)[0])


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """Convert an image to a picture for figures: RGB, or the first channel in gray.

    Args:
        pixels: (H, W), or (H, W, C) in the order of the file. Pixels that are not uint8 are scaled
            from their minimum and maximum to 0 and 255.

    Returns:
        (H, W, 3) uint8.
    """
    shown = pixels if pixels.ndim == 3 and pixels.shape[2] == 3 else np.atleast_3d(pixels)[..., :1]
    if shown.dtype != np.uint8:
        low, high = float(shown.min()), float(shown.max())
        scale = 255 / (high - low) if high > low else 0.0
        shown = np.rint((shown.astype(np.float64) - low) * scale).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))


def is_numpy(path: str | Path) -> bool:
    """Return whether a file contains a NumPy array; False if it cannot be read."""
    return _starts_with(path, b'\x93NUMPY')


def _starts_with(path: str | Path, magic: bytes) -> bool:
    if not Path(path).is_file():  # reading a named pipe would wait forever
        return False
    try:
        with open(path, 'rb') as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _read_numpy(path: str | Path) -> np.ndarray:
    with decoder_errors(path):
        stored = np.load(path, mmap_mode='r', allow_pickle=False)
    if stored.ndim == 3 and stored.shape[2] > MAX_CHANNELS:
        raise UnsupportedImageError(
            f'{path}: expected an array (H, W, C) with at most {MAX_CHANNELS} channels, got '
            f'{stored.shape}. Move the channels to the last axis'
        )
    kind = 'float32' if stored.dtype.kind == 'f' else stored.dtype.name
    if kind not in DTYPES:
        raise UnsupportedImageError(
            f'{path}: expected pixels of {", ".join(DTYPES)}, got {stored.dtype}. Convert them, '
            'such as to float32'
        )
    with decoder_errors(path):
        pixels = np.load(path, allow_pickle=False).astype(kind, order='C')
    return pixels.reshape(*pixels.shape[:2], -1)


def _read_image(path: str | Path, max_pixels: int) -> tuple[np.ndarray, ImageHeader]:
    try:
        return _read_pages(path, max_pixels)
    except ValueError as error:
        is_tiff = _starts_with(path, b'II*\0') or _starts_with(path, b'MM\0*')
        if is_tiff and isinstance(error.__cause__, UnidentifiedImageError):
            found = 'a TIFF of another kind, such as one with more than 4 channels per page'
            raise unsupported(path, found, _EXPECTED, _ADVICE) from error
        raise


def _read_pages(path: str | Path, max_pixels: int) -> tuple[np.ndarray, ImageHeader]:
    with open_image(path) as image:
        check_size(image.width * image.height, max_pixels, path)
        size, orientation = stored_size(image), exif_orientation(image)
        with decoder_errors(path):
            several = has_more_pages(image)
        if several and not isinstance(image, TiffImageFile):
            raise unsupported(path, f'an animation ({image.format})', _EXPECTED, _ADVICE)
        pages = [_page(image, path, several)]
        while several and _seek(image, path, len(pages)):
            if len(pages) == MAX_CHANNELS:
                raise UnsupportedImageError(
                    f'{path}: expected at most {MAX_CHANNELS} pages, one per channel, got more'
                )
            total = size[0] * size[1] * (len(pages) + 1)
            check_size(total, PAGES_PER_IMAGE * max_pixels, path)
            page = _page(image, path, several)
            if (page.shape, page.dtype) != (pages[0].shape, pages[0].dtype):
                found = f'{page.shape} {page.dtype} and {pages[0].shape} {pages[0].dtype}'
                raise unsupported(path, found, 'pages of one size and type', _ADVICE)
            pages.append(page)
        if not isinstance(image, TiffImageFile):  # Pillow has already rotated a TIFF
            orientation = exif_orientation(image)  # again: in a PNG, EXIF may come after the pixels
            pages = [apply_orientation(page, orientation) for page in pages]
        pixels = pages[0] if len(pages) == 1 else np.concatenate(pages, axis=2)
        return pixels, ImageHeader(size, orientation)


def _page(image: Image.Image, path: str | Path, is_channel: bool) -> np.ndarray:
    """Decode the current page, (H, W, C)."""
    with decoder_errors(path):
        bits = bits_per_channel(image)
    bands = stored = len(image.getbands())
    valid = image.mode in _MODES and (bits == 8 or bands == 1)
    if isinstance(image, TiffImageFile):
        stored = stored_channels(image)
        valid &= stored == bands and (image.mode == 'F' or has_unsigned_samples(image))
    if not valid or (is_channel and bands > 1):
        found = f'mode {image.mode}, {stored} channels of {bits} bits' + ' on a page' * is_channel
        raise unsupported(path, found, _EXPECTED, _ADVICE)
    image.info.pop('xmp', None)  # Pillow would apply its orientation, but only to TIFF
    with decoder_errors(path):
        image.load()
        pixels = np.array(image)  # a copy, because arrays of Pillow are read-only
    if pixels.dtype.kind == 'u' and pixels.dtype != np.uint8:
        pixels = pixels.astype(np.uint16)  # in the byte order of this machine
    return pixels.reshape(*pixels.shape[:2], -1)


def _seek(image: Image.Image, path: str | Path, page: int) -> bool:
    """Seek a page of a TIFF, from 0; return False after the last one."""
    with decoder_errors(path):
        try:
            image.seek(page)
        except EOFError:
            return False
    return True
