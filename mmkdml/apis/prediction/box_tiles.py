"""Boxes with their scores, drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmkdml.evaluation.boxes.samples import Boxes

Color = tuple[int, ...]

_FONT = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'
_FONT_SIZE = 11
_LINE = 2  # width in pixels
_SMALLEST = 2 * _LINE + 1  # side of a drawn box, so that its inside is visible
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def draw_boxes(
    tile: np.ndarray, boxes: Boxes, colors: Sequence[Color], scales: tuple[float, float]
) -> np.ndarray:
    """Return an image with boxes and the scores of those whose labels have space.

    Boxes of higher scores are drawn above others, and their labels are placed first.

    Args:
        tile: The scaled image, (H, W, 3), uint8, RGB; not changed.
        boxes: The boxes, in pixels of the unscaled image.
        colors: Color of each class.
        scales: Drawn pixels per pixel, vertically and horizontally.
    """
    image = Image.fromarray(tile)
    draw = ImageDraw.Draw(image)
    font = ImageFont.truetype(str(_FONT), _FONT_SIZE)
    corners = _drawn(boxes.boxes * np.array([scales[1], scales[0]] * 2), image.size)
    order = np.argsort(-boxes.scores, kind='stable')
    for index in order[::-1]:
        left, top, right, bottom = corners[index].tolist()
        color = colors[boxes.labels[index]]
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_BLACK)
        draw.rectangle((left, top, right, bottom), outline=color, width=_LINE)
    placed: list[tuple[int, int, int, int]] = []
    for index in order:
        left, top, *_ = corners[index].tolist()
        text = f'{boxes.scores[index]:.2f}'.removeprefix('0')
        width, height = round(font.getlength(text)) + 3, _FONT_SIZE + 1
        left = max(min(left, image.width - width), 0)
        top = top - height if top >= height else top
        place = left, top, left + width, top + height
        if any(_overlap(place, other) for other in placed):
            continue
        placed.append(place)
        color = colors[boxes.labels[index]]
        draw.rectangle((left, top, left + width - 1, top + height - 1), color)
        draw.text((left + 2, top - 1), text, _readable(color), font)
    return np.asarray(image)


def _drawn(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the first and last drawn column and row of boxes, (M, 4), within the image."""
    limits = np.array(size * 2) - 1
    first, last = np.round(corners[:, :2]), np.round(corners[:, 2:]) - 1
    missing = np.maximum(_SMALLEST - 1 - (last - first), 0)
    first, last = first - missing // 2, last + (missing + 1) // 2
    return np.hstack([first, last]).clip(0, limits).astype(int)


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _readable(color: Color) -> Color:
    """Return black or white, whichever differs more from a color."""
    red, green, blue = color
    return _BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else _WHITE
