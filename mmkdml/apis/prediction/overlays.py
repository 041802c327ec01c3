"""Overlays of predicted masks: an image next to the masks of each member."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont

from mmkdml.evaluation.mask_panels import PREDICTION_COLOR, Panel

# In pixels: the longer side of an image, the gap between images, the height of a text line.
_SIDE, _GAP, _LINE = 384, 8, 24
_OPACITY = 0.3
_FONT = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'


def draw_overlay(panels: Sequence[Panel], classes: Sequence[str], path: str | Path) -> None:
    """Draw one row per image: the image, then a column for the mask of each member.

    Columns are titled with the member's name and its number of foreground pixels. Regions are
    tinted and outlined in the color of their class; a single pixel remains visible.

    Args:
        panels: The rows, with masks of class indices; 0 is the background.
        classes: Names of the classes. Several foreground classes get a legend.
        path: PNG file to write; missing folders are created.
    """
    font = ImageFont.truetype(str(_FONT), 14)
    colors = _colors(len(classes) - 1)
    rows = [_row(panel, colors, font) for panel in panels]
    if len(colors) > 1:
        rows.append(_legend(classes[1:], colors, font))
    width = max(row.width for row in rows)
    sheet = Image.new('RGB', (width + _GAP, sum(row.height + _GAP for row in rows)), 'white')
    top = 0
    for row in rows:
        sheet.paste(row, (_GAP, top))
        top += row.height + _GAP
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, 'PNG')


def _colors(number: int) -> list[tuple[int, ...]]:
    """Return an 8-bit RGB color for each foreground class."""
    more = matplotlib.color_sequences['tab20']
    chosen = [PREDICTION_COLOR, *(more[index % len(more)] for index in range(number - 1))]
    return [tuple(round(255 * part) for part in to_rgb(color)) for color in chosen]


def _row(
    panel: Panel, colors: Sequence[tuple[int, ...]], font: ImageFont.FreeTypeFont
) -> Image.Image:
    tiles = [(_printable(panel.title), _tile(panel.image, None, colors))]
    for name, mask in panel.masks.items():
        heading = f'{_printable(name)}: {np.count_nonzero(mask)} px'
        tiles.append((heading, _tile(panel.image, mask, colors)))
    height, width = tiles[0][1].shape[:2]
    row = Image.new('RGB', ((width + _GAP) * len(tiles), _LINE + height), 'white')
    draw = ImageDraw.Draw(row)
    for column, (text, tile) in enumerate(tiles):
        left = column * (width + _GAP)
        draw.text((left, 4), _shortened(text, width, font), 'black', font)
        row.paste(Image.fromarray(tile), (left, _LINE))
    return row


def _tile(
    image: np.ndarray, mask: np.ndarray | None, colors: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """Return the scaled image with the mask drawn on it."""
    scale = _SIDE / max(image.shape[:2])
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    tile = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if mask is None:
        return tile
    if scale > 1:
        mask, scale = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), 1
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


def _legend(
    names: Sequence[str], colors: Sequence[tuple[int, ...]], font: ImageFont.FreeTypeFont
) -> Image.Image:
    names = list(map(_printable, names))
    lengths = [_LINE + int(font.getlength(name)) + 2 * _GAP for name in names]
    legend = Image.new('RGB', (sum(lengths), _LINE), 'white')
    draw = ImageDraw.Draw(legend)
    left = 0
    for name, color, length in zip(names, colors, lengths, strict=True):
        draw.rectangle((left, 4, left + 16, 18), color)
        draw.text((left + _LINE, 4), name, 'black', font)
        left += length
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
