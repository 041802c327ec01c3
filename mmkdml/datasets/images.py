"""Reading images and binary masks, with errors that name the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

#: Formats that images may have, whatever their names say. Of others that Pillow knows, EPS is a
#: program, which it would have Ghostscript run.
FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')


def read_image(path: str | Path, modes: Sequence[str]) -> np.ndarray:
    """The pixels of an image, (H, W) or (H, W, C); palette images as grey values.

    Args:
        path: The file.
        modes: Modes of Pillow that the image may have, such as ``'RGB'``, ``'L'``, ``'P'``.

    Raises:
        ValueError: If the file cannot be read or the image has another mode.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            mode = image.mode
            # What a palette image stores is an index: the colour behind it is what was drawn.
            pixels = np.asarray(image.convert('L') if mode == 'P' else image)
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise ValueError(f'{path}: unreadable image ({type(error).__name__}: {error})') from error
    if mode not in modes:
        raise ValueError(f'{path}: expected an image of mode {" or ".join(modes)}, got {mode}')
    return pixels


def read_binary_mask(path: str | Path) -> np.ndarray:
    """A mask as 0 (background) and 1 (foreground), (H, W), uint8.

    Foreground is 255 in a mask of {0, 255} and 1 in one of {0, 1}; in a palette image these are the
    grey values of the palette's colours, whatever their indices.

    Raises:
        ValueError: If the file cannot be read, is no grey, palette or black-and-white image, or
            holds other values.
    """
    pixels = read_image(path, ('L', '1', 'P'))
    foreground = pixels > 0
    top = pixels.max()
    if top not in (0, 1, 255) or not np.array_equal(pixels, top * foreground):
        values = np.unique(pixels).tolist()
        shown = ', '.join(map(str, values[:8])) + (', ...' if len(values) > 8 else '')
        raise ValueError(
            f'{path}: expected a binary mask, {{0, 255}} or {{0, 1}}, got the values {shown}'
        )
    return foreground.astype(np.uint8)
