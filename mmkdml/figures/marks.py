"""Marks on images: outlines of masks and boxes, and scale bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke


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


def outline(
    axes: Axes, mask: np.ndarray, color: str, width: float = 1.2, edge: bool = False
) -> None:
    """Draw the outline of a mask (H, W), closed at the edge of the image.

    Args:
        axes: Axes that show the image.
        mask: True or non-zero inside.
        color: Color of the line.
        width: Width of the line in points.
        edge: Add a thin dark edge, so that the line is visible on a filling of its color.
    """
    if not mask.any():
        return  # matplotlib warns about empty contours
    height, breadth = mask.shape
    lines = axes.contour(
        np.arange(-1, breadth + 1),
        np.arange(-1, height + 1),
        np.pad(mask, 1),
        levels=[0.5],
        colors=color,
        linewidths=width,
    )
    if edge:
        lines.set_path_effects([Stroke(linewidth=width + 1, foreground='black'), Normal()])
    axes.set(xlim=(-0.5, breadth - 0.5), ylim=(height - 0.5, -0.5))


def outline_boxes(
    axes: Axes, boxes: np.ndarray, colors: Sequence[str], style: Any = '-', width: float = 1.1
) -> None:
    """Draw boxes, each with a thin dark edge.

    Args:
        axes: Axes that show the image.
        boxes: x1, y1, x2, y2 in pixels, (M, 4); (0, 0) is the upper left corner of the first pixel.
        colors: Color of each box.
        style: Line style of matplotlib.
        width: Width of the lines in points.
    """
    for (left, top, right, bottom), color in zip(boxes - 0.5, colors, strict=True):
        box = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=color, linestyle=style
        )
        box.set(
            linewidth=width,
            path_effects=[Stroke(linewidth=width + 0.6, foreground='black'), Normal()],
        )
        axes.add_patch(box)
