"""Overlays of predictions: an image next to the masks or boxes of each member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont

from mmkdml.apis.prediction.box_tiles import Color, draw_boxes
from mmkdml.evaluation.boxes.panels import BoxPanel
from mmkdml.evaluation.boxes.samples import Boxes
from mmkdml.evaluation.mask_panels import Panel
from mmkdml.figures import class_color

# In pixels: the longer side of an image, the gap between images, the height of a text line.
_SIDE, _GAP, _LINE = 384, 8, 24
_BOX_SIDE = 512  # the longer side of an image with boxes, whose scores need space
_OPACITY = 0.3
_FONT = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def draw_overlay(
    panels: Sequence[Panel | BoxPanel], names: Sequence[str], path: str | Path
) -> None:
    """Draw one row per image: the image, then a column for the mask or boxes of each member.

    Columns are titled with the member's name and the size of its foreground, or the number of its
    boxes. Regions are tinted and outlined in the color of their class, which the legend names; a
    single pixel remains visible. Boxes have the color of their class and are labeled with their
    score. If the spacing is known, images have their true proportions, and the first column has a
    scale bar.

    Args:
        panels: The rows, with masks of class indices, where 0 is the background, or with boxes.
        names: Names of the foreground classes.
        path: PNG file to write; missing folders are created.
    """
    font = ImageFont.truetype(str(_FONT), 14)
    colors = [_color(index) for index in range(len(names))]
    rows = [_row(panel, colors, font) for panel in panels]
    width = max(row.width for row in rows)
    rows.append(_legend(names, colors, width, font))
    sheet = Image.new('RGB', (width + _GAP, sum(row.height + _GAP for row in rows)), 'white')
    top = 0
    for row in rows:
        sheet.paste(row, (_GAP, top))
        top += row.height + _GAP
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, 'PNG')


def columns_of(panel: Panel | BoxPanel) -> Mapping[str, np.ndarray | Boxes]:
    """Return the masks or boxes of a row by member."""
    return panel.boxes if isinstance(panel, BoxPanel) else panel.masks


def size_of(found: np.ndarray | Boxes) -> int:
    """Return the number of foreground pixels of a mask, or of boxes."""
    return len(found.scores) if isinstance(found, Boxes) else int(np.count_nonzero(found))


def _color(index: int) -> Color:
    """Return the 8-bit RGB color of a foreground class."""
    return tuple(round(255 * part) for part in to_rgb(class_color(index)))


def _row(
    panel: Panel | BoxPanel, colors: Sequence[Color], font: ImageFont.FreeTypeFont
) -> Image.Image:
    scales = _scales(panel)
    plain = _tile(panel.image, None, colors, scales)
    first = plain.copy()
    if panel.spacing is not None:
        _draw_scale_bar(first, panel.spacing[1] / scales[1])
    tiles = [(_printable(panel.title), first)]
    for name, found in columns_of(panel).items():
        number = size_of(found)
        if isinstance(found, Boxes):
            size = f'{number} box' + 'es' * (number != 1)
            tile = draw_boxes(plain, found, colors, scales)
        else:
            size = _size(number, panel.spacing)
            tile = _tile(panel.image, found, colors, scales)
        tiles.append((f'{_printable(name)}: {size}', tile))
    height, width = first.shape[:2]
    row = Image.new('RGB', ((width + _GAP) * len(tiles), _LINE + height), 'white')
    draw = ImageDraw.Draw(row)
    for column, (text, tile) in enumerate(tiles):
        left = column * (width + _GAP)
        draw.text((left, 4), _shortened(text, width, font), 'black', font)
        row.paste(Image.fromarray(tile), (left, _LINE))
    return row


def _size(pixels: int, spacing: tuple[float, float] | None) -> str:
    if spacing is None:
        return f'{pixels:,} px'
    return f'{pixels:,} px, {pixels * spacing[0] * spacing[1] / 100:.1f} cm²'


def _scales(panel: Panel | BoxPanel) -> tuple[float, float]:
    """Return the drawn pixels per pixel, vertically and horizontally."""
    side = _BOX_SIDE if isinstance(panel, BoxPanel) else _SIDE
    spacing = panel.spacing or (1.0, 1.0)
    longest = max(own * one for own, one in zip(panel.image.shape, spacing, strict=False))
    return side * spacing[0] / longest, side * spacing[1] / longest


def _tile(
    image: np.ndarray, mask: np.ndarray | None, colors: Sequence[Color], scales: tuple[float, float]
) -> np.ndarray:
    """Return the scaled image with the mask drawn on it."""
    height, width = (
        max(1, round(scale * side)) for scale, side in zip(scales, image.shape, strict=False)
    )
    method = cv2.INTER_AREA if min(scales) < 1 else cv2.INTER_LINEAR
    tile = cv2.resize(image, (width, height), interpolation=method)
    if mask is None:
        return tile
    enlarged = [
        side if scale > 1 else own
        for scale, side, own in zip(scales, (height, width), mask.shape, strict=True)
    ]
    mask = cv2.resize(mask, enlarged[::-1], interpolation=cv2.INTER_NEAREST)
    scale = np.array([min(scales[1], 1), min(scales[0], 1)])  # x, y
    tinted = tile.copy()
    outlines = []
    for index, color in enumerate(colors, start=1):
        # Found in the unscaled mask, because scaling down would lose small regions.
        found, _ = cv2.findContours(
            (mask == index).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        outlines.append([np.round((one + 0.5) * scale - 0.5).astype(np.int32) for one in found])
        cv2.drawContours(tinted, outlines[-1], -1, color, cv2.FILLED)
    tile = cv2.addWeighted(tinted, _OPACITY, tile, 1 - _OPACITY, 0)
    for lines, color in zip(outlines, colors, strict=True):
        cv2.drawContours(tile, lines, -1, color, 2, cv2.LINE_AA)
    return tile


def _draw_scale_bar(tile: np.ndarray, millimeters: float) -> None:
    """Draw a bar of a round length, at most a third of the width, at the lower right.

    Args:
        tile: The drawn image, changed in place.
        millimeters: Width of a drawn pixel.
    """
    height, width = tile.shape[:2]
    longest = width * millimeters / 3
    power = 10.0 ** np.floor(np.log10(longest))
    length = power * max(step for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))
    end, y = width - 10, height - 12
    start = end - max(round(length / millimeters), 1)
    text, font = f'{length:g} mm', ImageFont.truetype(str(_FONT), 13)
    image = Image.fromarray(tile)
    draw = ImageDraw.Draw(image)
    draw.rectangle((start - 1, y - 1, end + 1, y + 4), _BLACK)
    draw.rectangle((start, y, end, y + 3), _WHITE)
    place = (end - font.getlength(text), y - 20)
    draw.text(place, text, _WHITE, font, stroke_width=2, stroke_fill=_BLACK)
    tile[:] = np.asarray(image)


def _legend(
    names: Sequence[str], colors: Sequence[Color], width: int, font: ImageFont.FreeTypeFont
) -> Image.Image:
    """Draw the name and color of each class, in as many lines as they need."""
    names = [_shortened(_printable(name), width - _LINE, font) for name in names]
    places, left, line = [], 0, 0
    for name in names:
        length = _LINE + int(font.getlength(name)) + 2 * _GAP
        if left and left + length > width:
            left, line = 0, line + 1
        places.append((left, line * _LINE))
        left += length
    legend = Image.new('RGB', (width, (line + 1) * _LINE), 'white')
    draw = ImageDraw.Draw(legend)
    for name, color, (x, y) in zip(names, colors, places, strict=True):
        draw.rectangle((x, y + 4, x + 16, y + 18), color, outline='black')
        draw.text((x + _LINE, y + 4), name, 'black', font)
    return legend


def _printable(text: object) -> str:
    """Replace line breaks, control and direction characters, which file names may hold."""
    return ''.join(one if one.isprintable() else '\N{REPLACEMENT CHARACTER}' for one in str(text))


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cut out the middle of a text that is too long for one line."""
    short, kept = text, len(text)
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f'{text[: kept // 2]}…{text[-(kept - kept // 2) :]}'
    return short
