"""Pictures of predicted masks: an image, and beside it what each member says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont

from mmkdml.evaluation.mask_panels import PREDICTION_COLOR, Panel

# Pixels: the longer side of an image, what is between two, the height of a line of text.
_SIDE, _GAP, _LINE = 384, 8, 24
_OPACITY = 0.3
_FONT = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'


def draw_overlay(panels: Sequence[Panel], classes: Sequence[str], path: str | Path) -> None:
    """Draws a row for each image: the image with its title, then a column for each member.

    A column is headed by the member's name and by the number of its foreground pixels. A region is
    tinted and outlined in the colour of its class, and shows even where it is a single pixel.

    Args:
        panels: The rows; the masks hold indices of classes, 0 for the background.
        classes: Names of the classes; more than one foreground class gets a legend.
        path: The PNG to write; folders are made.
    """
    font = ImageFont.truetype(str(_FONT), 14)
    colours = _colours(len(classes) - 1)
    rows = [_row(panel, colours, font) for panel in panels]
    if len(colours) > 1:
        rows.append(_legend(classes[1:], colours, font))
    width = max(row.width for row in rows)
    sheet = Image.new('RGB', (width + _GAP, sum(row.height + _GAP for row in rows)), 'white')
    top = 0
    for row in rows:
        sheet.paste(row, (_GAP, top))
        top += row.height + _GAP
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, 'PNG')


def _colours(number: int) -> list[tuple[int, ...]]:
    """One for each foreground class, RGB of 8 bits."""
    more = matplotlib.color_sequences['tab20']
    chosen = [PREDICTION_COLOR, *(more[index % len(more)] for index in range(number - 1))]
    return [tuple(round(255 * part) for part in to_rgb(colour)) for colour in chosen]


def _row(
    panel: Panel, colours: Sequence[tuple[int, ...]], font: ImageFont.FreeTypeFont
) -> Image.Image:
    tiles = [(_printable(panel.title), _tile(panel.image, None, colours))]
    for name, mask in panel.masks.items():
        heading = f'{_printable(name)}: {np.count_nonzero(mask)} px'
        tiles.append((heading, _tile(panel.image, mask, colours)))
    height, width = tiles[0][1].shape[:2]
    row = Image.new('RGB', ((width + _GAP) * len(tiles), _LINE + height), 'white')
    draw = ImageDraw.Draw(row)
    for column, (text, tile) in enumerate(tiles):
        left = column * (width + _GAP)
        draw.text((left, 4), _shortened(text, width, font), 'black', font)
        row.paste(Image.fromarray(tile), (left, _LINE))
    return row


def _tile(
    image: np.ndarray, mask: np.ndarray | None, colours: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """The image with the mask over it, enlarged or reduced."""
    scale = _SIDE / max(image.shape[:2])
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if mask is None:
        return shown
    if scale > 1:
        mask, scale = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), 1
    tinted = shown.copy()
    outlines = []
    for index, colour in enumerate(colours, start=1):
        # Of the mask as it is: reduced, it would lose small regions.
        found, _ = cv2.findContours(
            (mask == index).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        outlines.append([np.round((one + 0.5) * scale - 0.5).astype(np.int32) for one in found])
        cv2.drawContours(tinted, outlines[-1], -1, colour, cv2.FILLED)
    shown = cv2.addWeighted(tinted, _OPACITY, shown, 1 - _OPACITY, 0)
    for lines, colour in zip(outlines, colours, strict=True):
        cv2.drawContours(shown, lines, -1, colour, 2, cv2.LINE_AA)
    return shown


def _legend(
    names: Sequence[str], colours: Sequence[tuple[int, ...]], font: ImageFont.FreeTypeFont
) -> Image.Image:
    names = list(map(_printable, names))
    lengths = [_LINE + int(font.getlength(name)) + 2 * _GAP for name in names]
    legend = Image.new('RGB', (sum(lengths), _LINE), 'white')
    draw = ImageDraw.Draw(legend)
    left = 0
    for name, colour, length in zip(names, colours, lengths, strict=True):
        draw.rectangle((left, 4, left + 16, 18), colour)
        draw.text((left + _LINE, 4), name, 'black', font)
        left += length
    return legend


def _printable(text: object) -> str:
    """In one line and direction; fonts fail on some of what names of files may hold."""
    return ''.join(one if one.isprintable() else '\N{REPLACEMENT CHARACTER}' for one in str(text))


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text, its middle left out if it is too long for one line."""
    short, kept = text, len(text)
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f'{text[: kept // 2]}…{text[-(kept - kept // 2) :]}'
    return short
