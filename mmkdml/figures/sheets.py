"""Sheets of images of equal size: titles, captions, legend and color bar never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from mmkdml.figures.text import LINE_SPACING, text_height, text_width, wrap

_TITLE, _SMALL, _HEADING = 8.0, 7.0, 10.0  # font sizes in points
_MARGIN, _GAP, _BAR, _BAR_LABEL = 0.08, 0.05, 0.12, 0.62  # in inches
_LEGEND_HANDLE = 0.45
PRINT_DPI = 300  # of images in figures for papers


@dataclass(frozen=True)
class ColorBar:
    """Color bar of a sheet, from 0 to 1.

    Attributes:
        colors: Color map; it may be transparent.
        label: Text next to the bar.
        background: Color that is seen through a transparent color map.
    """

    colors: Colormap
    label: str = ''
    background: str = '0.45'


def tile_sheet(
    captions: Sequence[Sequence[str]],
    aspects: Sequence[float],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    *,
    heading: str = '',
    legend: Sequence[Artist] = (),
    bar: ColorBar | None = None,
    width: float | None = None,
    tile_width: float = 1.6,
) -> tuple[Figure, np.ndarray]:
    """Create a figure with a grid of empty axes, in which all tiles are equally wide.

    The layout is computed from the sizes of all texts, which are wrapped to the tiles, so that
    nothing is cut off or overlaps, and rows touch up to their captions.

    Args:
        captions: Text below each tile by row and column; ``''`` for none.
        aspects: Height of the tiles of each row relative to their width.
        column_titles: Text above each column; lines after the first one are smaller.
        row_titles: Text to the left of each row.
        heading: Title of the figure.
        legend: Handles of the legend below the tiles.
        bar: Color bar to the right of the tiles.
        width: Width of the figure in inches. Default: given by ``tile_width``.
        tile_width: Width of a tile in inches if ``width`` is None.

    Returns:
        The figure, and its axes by row and column.
    """
    rows, columns = len(captions), len(column_titles)
    right = _BAR + _BAR_LABEL + _GAP if bar else 0.0
    label_lines = 2 if any(row_titles) else 0
    left = label_lines * _SMALL * LINE_SPACING / 72 + _GAP if label_lines else 0.0
    if width is None:
        width = 2 * _MARGIN + left + columns * (tile_width + _GAP) + right
    tile = (width - 2 * _MARGIN - left - right) / columns - _GAP
    heights = [aspect * tile for aspect in aspects]

    heading = wrap(heading, width - 2 * _MARGIN, _HEADING, 2, 'bold')
    titles = [_title(title, tile) for title in column_titles]
    texts = [[wrap(caption, tile, _SMALL, 4) for caption in line] for line in captions]
    below = [max(text_height(text, _SMALL) for text in line) + _GAP for line in texts]
    for handle in legend:
        inside = width - 2 * _MARGIN - _LEGEND_HANDLE
        handle.set_label(wrap(str(handle.get_label()), inside, _SMALL))
    legend_columns, legend_height = _legend_size(legend, width)
    lines = sum(str(handle.get_label()).count('\n') for handle in legend)
    legend_height += lines * _SMALL * LINE_SPACING / 72

    title_height = max(text_height(title, _TITLE) for title, _ in titles)
    title_height += max(text_height(small, _SMALL) for _, small in titles)
    top = text_height(heading, _HEADING) + (_GAP if heading else 0)
    tiles = sum(heights) + sum(below)
    height = 2 * _MARGIN + top + title_height + _GAP + tiles + legend_height
    figure = new_figure(width, height)

    def write(x: float, y: float, text: str, size: float, **options: Any) -> float:
        """Write lines on common baselines below ``y``, in inches; return where they end."""
        for line in text.splitlines():
            baseline = y + 0.8 * size * LINE_SPACING / 72
            place = (x / width, 1 - baseline / height)
            figure.text(*place, line, fontsize=size, ha='center', parse_math=False, **options)
            y += size * LINE_SPACING / 72
        return y

    y = _MARGIN
    write(width / 2, y, heading, _HEADING, weight='bold')
    y += top
    small_height = max(text_height(small, _SMALL) for _, small in titles)
    for column, (title, small) in enumerate(titles):
        center = _MARGIN + left + (column + 0.5) * (tile + _GAP)
        start = y + title_height - small_height - text_height(title, _TITLE)
        write(center, write(center, start, title, _TITLE), small, _SMALL, color='0.3')
    y += title_height + _GAP
    first = y
    grid = np.empty((rows, columns), object)
    for row in range(rows):
        below_tiles = y + heights[row]
        for column in range(columns):
            x = _MARGIN + left + column * (tile + _GAP) + _GAP / 2
            axes = grid[row, column] = figure.add_axes(
                (x / width, 1 - below_tiles / height, tile / width, heights[row] / height)
            )
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            write(x + tile / 2, below_tiles + _GAP / 2, texts[row][column], _SMALL)
        figure.text(
            (_MARGIN + left - _GAP) / width,
            1 - (y + heights[row] / 2) / height,
            wrap(row_titles[row], heights[row], _SMALL, 2),
            fontsize=_SMALL,
            rotation=90,
            ha='right',
            va='center',
            parse_math=False,
        )
        y = below_tiles + below[row]
    if bar:
        length = min(tiles - below[-1], max(heights[0], 2.0))
        x = _MARGIN + left + columns * (tile + _GAP) + _GAP
        corner = x / width, 1 - (first + length) / height
        draw_bar(figure.add_axes((*corner, _BAR / width, length / height)), bar, length)
    if legend:
        figure.legend(
            handles=list(legend),
            loc='lower center',
            ncols=legend_columns,
            frameon=False,
            fontsize=_SMALL,
            handlelength=1.6,
            borderaxespad=0,
            bbox_to_anchor=(0.5, _MARGIN / 2 / height),
        )
    return figure, grid


def new_figure(width: float, height: float) -> Figure:
    """Create a figure whose axes stay where they are placed, whatever the style sheet says."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine('none')
    return figure


def _title(title: str, tile: float) -> tuple[str, str]:
    first, _, rest = title.partition('\n')
    return wrap(first, tile, _TITLE, 2), wrap(rest, tile, _SMALL, 2)


def _legend_size(legend: Sequence[Artist], width: float) -> tuple[int, float]:
    """Return the number of columns of the legend and its height."""
    if not legend:
        return 1, 0.0
    widest = max(text_width(str(one.get_label()), _SMALL) for one in legend)
    columns = max(1, min(len(legend), int((width - 2 * _MARGIN) / (widest + _LEGEND_HANDLE))))
    return columns, -(-len(legend) // columns) * _SMALL * 1.5 / 72 + 2 * _GAP


def draw_bar(axes: Axes, bar: ColorBar, length: float) -> None:
    """Draw a vertical color bar of a length in inches into axes; its label is wrapped to it."""
    axes.set_facecolor(bar.background)
    ramp = np.linspace(0, 1, 256)[:, None]
    axes.imshow(ramp, cmap=bar.colors, aspect='auto', origin='lower', extent=(0, 1, 0, 1))
    axes.set(xticks=[], yticks=[0, 0.5, 1], label='<colorbar>')
    axes.spines[:].set_visible(False)
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position('right')
    axes.tick_params(labelsize=_SMALL, length=2, pad=1.5)
    axes.set_ylabel(wrap(bar.label, length, _SMALL, 3), fontsize=_SMALL, parse_math=False)
