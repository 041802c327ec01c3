"""Grids of images with equal tiles, small gaps and titles that are never cut."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mmkdml.figures.style import shorten

# Characters of the small font per inch, and inches per line.
_CHARACTERS, _LINE = 13, 0.16


def new_tiles(
    shapes: Sequence[tuple[int, int]],
    columns: Sequence[str],
    width: float,
    row_titles: Sequence[str] = (),
    caption_lines: int = 0,
    bar: str = '',
) -> tuple[Figure, np.ndarray]:
    """Create a figure of image tiles: a row per case, a column per kind of image.

    Args:
        shapes: Height and width of the images of each row, in pixels.
        columns: Titles of the columns.
        width: Width of the figure in inches.
        row_titles: Titles to the left of the rows.
        caption_lines: Lines below each tile; see :func:`show_tile`.
        bar: Label of the color bar from 0 to 1; empty for none.

    Returns:
        The figure and its axes (rows, columns), without ticks and frames.
    """
    side = (width - 0.3 * bool(row_titles) - 0.7 * bool(bar)) / len(columns)
    heights = [side * height / breadth for height, breadth in shapes]
    wrapped = [wrap(name, side, 2) for name in columns]
    above = _LINE * (1 + max(name.count('\n') for name in wrapped))
    gaps = (_LINE * caption_lines + 0.05) * len(shapes)
    layout = ConstrainedLayoutEngine(
        w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01, compress=True
    )
    figure = Figure(figsize=(width, sum(heights) + gaps + above + 0.6), layout=layout)
    grid = figure.subplots(len(shapes), len(columns), squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, name in zip(grid[0], wrapped, strict=True):
        axes.set_title(name)
    for axes, title, height in zip(grid[:, 0], row_titles, heights, strict=False):
        axes.set_ylabel(wrap(title, height, 2), fontsize=7)
    if bar:
        add_color_bar(figure, grid, bar)
    return figure, grid


def show_tile(axes: Axes, image: np.ndarray, caption: str = '', **options: Any) -> None:
    """Show an image (H, W, 3) or a map (H, W) with a caption below it."""
    axes.imshow(image, **options)
    if caption:
        axes.set_xlabel(caption, fontsize=7, labelpad=2)


def add_color_bar(
    figure: Figure,
    axes: np.ndarray | Sequence[Axes],
    label: str,
    limits: tuple[float, float] = (0, 1),
    cmap: str = 'viridis',
    **options: Any,
) -> None:
    """Add a color bar at the right whose label fits next to it.

    Args:
        figure: The figure.
        axes: Axes that share the bar.
        label: Text next to the bar, with its unit; wrapped if it is longer than the bar.
        limits: Values at the ends.
        cmap: Color map.
        **options: Options of ``Figure.colorbar``.
    """
    mappable = ScalarMappable(Normalize(*limits), cmap)
    bar = figure.colorbar(mappable, ax=axes, pad=0.01, fraction=0.05, aspect=25, **options)
    bar.outline.set_visible(False)
    bar.set_label(wrap(label, 0.7 * figure.get_figheight(), 3))


def add_scale_bar(axes: Axes, spacing: float, unit: str = 'mm') -> None:
    """Draw a bar of a round length, about a quarter of the image's width, at the lower right.

    Args:
        axes: Axes that show an image.
        spacing: Width of a pixel in ``unit``, above 0.
        unit: Unit of length.
    """
    left, right = sorted(axes.get_xlim())
    longest = (right - left) * spacing / 4
    power = 10 ** np.floor(np.log10(longest))
    length = power * max(step for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))
    share = length / spacing / (right - left)
    for color, thickness in (('black', 3.6), ('white', 2.0)):
        axes.plot(
            [0.96 - share, 0.96],
            [0.05, 0.05],
            color=color,
            linewidth=thickness,
            solid_capstyle='butt',
            transform=axes.transAxes,
        )
    text = axes.text(
        0.96, 0.08, f'{length:g} {unit}', ha='right', va='bottom', fontsize=7,
        color='white', transform=axes.transAxes,
    )  # fmt: skip
    text.set_bbox(dict(facecolor='black', alpha=0.5, edgecolor='none', pad=0.8))


def outline(axes: Axes, mask: np.ndarray, color: str, width: float = 1.2) -> None:
    """Draw the outline of a mask (H, W), closed at the edge of the image."""
    if not mask.any():
        return  # matplotlib warns about empty contours
    height, breadth = mask.shape
    axes.contour(
        np.arange(-1, breadth + 1),
        np.arange(-1, height + 1),
        np.pad(mask, 1),
        levels=[0.5],
        colors=color,
        linewidths=width,
    )
    axes.set(xlim=(-0.5, breadth - 0.5), ylim=(height - 0.5, -0.5))


def wrap(text: str, inches: float, lines: int) -> str:
    """Break a text into at most ``lines`` lines of a length; what is longer loses its middle."""
    length = max(4, int(_CHARACTERS * inches))
    words = shorten(text, lines * length - lines).replace('_', '_ ')
    return fill(words, length).replace('_ ', '_')
