"""Opening of image files and checks before decoding: format, depth, channels, orientation."""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

#: Supported formats, recognized by content, not by suffix. EPS is excluded because Pillow executes
#: such files with Ghostscript.
FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
# Supported modes of Pillow; images with an alpha channel must be opaque.
_MODES = ('RGB', 'L', 'P', '1', 'RGBA', 'LA', 'PA')
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _SAMPLE_FORMAT = 256, 257, 258, 274, 277, 339
# Marker at the start of a JPEG 2000 codestream, and the number of bytes searched for it.
_CODESTREAM, _SEARCHED_BYTES = b'\xff\x4f\xff\x51', 2**20
_BUFFERED_BYTES = 2**22
_TO_RGB = 'Convert it to 8-bit RGB'
_TO_8_BITS = 'Convert it to 8 bits with a suitable range of values'


class UnsupportedImageError(ValueError):
    """An image file of an unsupported kind."""


def check_kind(image: Image.Image, path: str | Path, where: str = '') -> None:
    """Refuse an opened image that is not 8-bit grey, RGB or palette.

    Raises:
        UnsupportedImageError: If depth or channels are not supported. ``where``, such as
            ``' on page 2'``, is part of the message.
    """
    mode = image.mode
    bits = bits_per_channel(image)
    if bits > 8:
        raise unsupported(path, f'{bits} bits per channel (mode {mode}){where}', advice=_TO_8_BITS)
    if isinstance(image, TiffImageFile):
        if not has_unsigned_samples(image):
            raise unsupported(path, f'signed or float values (mode {mode}){where}')
        samples = stored_channels(image)
        if samples != len(image.getbands()):
            raise unsupported(path, f'{samples} channels (mode {mode}){where}')
    if mode not in _MODES:
        advice = _TO_8_BITS if mode in ('F', 'I') or mode.startswith('I;') else _TO_RGB
        raise unsupported(path, f'mode {mode}{where}', advice=advice)


def check_size(pixels: int, limit: int, what: str | Path) -> None:
    """Raise ValueError if an image has more than ``limit`` pixels."""
    if pixels > limit:
        raise ValueError(
            f'{what}: {pixels / 1e6:.1f} megapixels are more than {limit / 1e6:g}. Cut it into '
            'tiles, or raise the limit of predictions (max_pixels, --max-megapixels)'
        )


def check_opaque(image: Image.Image, path: str | Path) -> None:
    """Refuse a decoded image with transparent pixels.

    Raises:
        UnsupportedImageError: If the alpha channel or the transparent color is used.
    """
    if image.has_transparency_data:
        alpha = image.convert('RGBA').getchannel('A')
        transparent = alpha.width * alpha.height - alpha.histogram()[255]
        if transparent:
            raise unsupported(
                path,
                f'{transparent} transparent pixels (mode {image.mode})',
                'an opaque image',
                'Flatten it onto a background',
            )


def has_more_pages(image: Image.Image) -> bool:
    """Return whether a file has several pages or frames, without reading all of them.

    The additional images of a multi-picture JPEG (MPO), previews and depth maps, do not count.
    """
    if not isinstance(image, TiffImageFile):
        return image.format != 'MPO' and bool(getattr(image, 'is_animated', False))
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the stored pixels, before any EXIF rotation."""
    if isinstance(image, TiffImageFile):  # some versions of Pillow swap width and height
        return image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
    return image.size


def stored_channels(image: TiffImageFile) -> int:
    """Return the number of channels in a TIFF, of which Pillow may decode fewer."""
    return image.tag_v2.get(_SAMPLES, 1)


def has_unsigned_samples(image: TiffImageFile) -> bool:
    """Return whether the values in a TIFF are unsigned integers, or of an undefined kind."""
    return set(image.tag_v2.get(_SAMPLE_FORMAT, (1,))) <= {1, 4}


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, as far as the file is read; 1 if there is none."""
    if isinstance(image, TiffImageFile):
        value: Any = image.tag_v2.get(_ORIENTATION)
    else:
        exif = Image.Exif()
        try:
            exif.load(image.info.get('exif', b''))
        except Exception:  # viewers and OpenCV ignore damaged EXIF as well
            return 1
        value = exif.get(_ORIENTATION)
    return int(value) if value in range(1, 9) else 1


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8, to stored pixels (H, W) or (H, W, C)."""
    if orientation == 1:
        return pixels
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def unsupported(
    path: str | Path,
    found: str,
    expected: str = 'an 8-bit grey, RGB or palette image',
    advice: str = _TO_RGB,
) -> UnsupportedImageError:
    """Build the error for an unsupported image file."""
    return UnsupportedImageError(f'{path}: expected {expected}, got {found}. {advice}')


def bits_per_channel(image: Image.Image) -> int:
    """Return the bits per channel of the file, which Pillow may silently reduce to 8."""
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(_BITS, (1,)))
    if image.format == 'JPEG2000':
        return _jpeg2000_bits(image)
    tile: Any = next(iter(image.tile), None)  # type: ignore[attr-defined]
    if tile is None:
        return 8
    deep = tile[3][1] > 255 if tile[0] == 'ppm' else ';16' in str(tile[3])
    return 16 if deep else 8


def _jpeg2000_bits(image: Image.Image) -> int:
    file = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    file.seek(0)
    head = file.read(_SEARCHED_BYTES)
    file.seek(position)
    start = head.index(_CODESTREAM) + 40
    (channels,) = struct.unpack_from('>H', head, start)
    return max(head[start + 2 : start + 2 + 3 * channels : 3] or b'\x7f', default=0) % 128 + 1


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image with Pillow, without Pillow's limit on pixels.

    Raises:
        ValueError: If the file is not an image of a supported format.
    """
    with _without_pillow_limit(), ExitStack() as stack:
        with decoder_errors(path):
            if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
                raise OSError('not a regular file')  # opening a named pipe would wait forever
            # Given a path, Pillow 13 maps the file and misreads a rotated TIFF. Small files are
            # buffered because TIFF tags are read in many pieces.
            file: Any = stack.enter_context(open(path, 'rb'))
            if os.fstat(file.fileno()).st_size <= _BUFFERED_BYTES:
                file = io.BytesIO(file.read())
            image = Image.open(file, formats=FORMATS)
        with image:
            yield image


@contextmanager
def decoder_errors(path: str | Path) -> Iterator[None]:
    """Reraise any error of a decoder as a one-line ValueError that names the file."""
    try:
        yield
    except UnsupportedImageError:
        raise
    except Exception as error:  # broken files raise errors of many types
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path}: unreadable image ({type(error).__name__}: {reason})') from error


_limit_lock = threading.Lock()
_limit_users = 0
_pillow_limit: int | None = None


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Suspend Pillow's process-wide limit on pixels while any thread reads."""
    global _limit_users, _pillow_limit
    with _limit_lock:
        if not _limit_users:
            _pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if not _limit_users:
                Image.MAX_IMAGE_PIXELS = _pillow_limit
