"""Figures of masks: image, truth, and the masks of members and ensemble side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

TRUTH = 'truth'
IGNORED = 255
# Light green and magenta are distinct with every kind of color vision, and bright enough for
# outlines on false-color MRI and stained tissue.
TRUTH_COLOR = '#00e08a'
PREDICTION_COLOR = '#ff3fd8'


class Panel(NamedTuple):
    """Row of a figure.

    Attributes:
        image: (H, W, 3), uint8, RGB.
        masks: Masks (H, W) by name of the column, in order; non-zero is foreground. ``'truth'``, in
            which 255 is ignored, is outlined in every column, and the titles contain the IoU with
            it.
        title: Text to the left of the row.
        spacing: Height and width of a pixel in millimeters; None if unknown.
    """

    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    title: str = ''
    spacing: tuple[float, float] | None = None


def draw_panel(image: np.ndarray, masks: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Draw one image and its masks in a row; see :func:`draw_sheet`."""
    draw_sheet([Panel(image, masks)], path)


def draw_sheet(panels: Sequence[Panel], path: str | os.PathLike) -> None:
    """Draw a row per panel: the image, then a column per mask.

    Args:
        panels: Rows, all with the same columns.
        path: PNG to write; missing folders are created.

    Raises:
        ValueError: If there are no panels, their columns differ, an image is not (H, W, 3) uint8,
            or a mask differs in size from its image.
    """
    if not panels:
        raise ValueError('Invalid panels: expected at least one, got none')
    columns = list(panels[0].masks)
    for panel in panels:
        _check(panel, columns)
    figure = Figure(
        figsize=(2.1 * (len(columns) + 1) + 0.3, 2.3 * len(panels) + 0.7),
        dpi=120,
        layout='constrained',
    )
    grid = figure.subplots(len(panels), len(columns) + 1, squeeze=False)
    for row, (panel, axes) in enumerate(zip(panels, grid, strict=True)):
        for axis, name in zip(axes, ['image', *columns], strict=True):
            _draw(axis, panel, name, with_name=row == 0)
        axes[0].set_ylabel(panel.title, fontsize=9, parse_math=False)
    legend = [
        Patch(
            facecolor=(*to_rgb(PREDICTION_COLOR), 0.45),
            edgecolor=PREDICTION_COLOR,
            label='prediction',
        )
    ]
    if TRUTH in columns:
        legend.insert(0, Patch(facecolor='none', edgecolor=TRUTH_COLOR, linewidth=2, label=TRUTH))
    figure.legend(handles=legend, loc='outside lower center', ncols=2, frameon=False, fontsize=10)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches='tight', pad_inches=0.1)


def _check(panel: Panel, columns: list[str]) -> None:
    image, shape = panel.image, panel.image.shape
    if len(shape) != 3 or shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            'Invalid image: expected (H, W, 3) uint8, got '
            f'{shape} {image.dtype} {panel.title}'.rstrip()
        )
    if list(panel.masks) != columns:
        raise ValueError(
            'Invalid masks: expected the same columns in all rows, got '
            f'{columns} and {list(panel.masks)}'
        )
    for name, mask in panel.masks.items():
        if mask.shape != shape[:2]:
            raise ValueError(
                f"Invalid mask {name!r}: expected its image's size {shape[:2]}, got {mask.shape}. "
                'Resize the image to the masks'
            )


def _draw(axis: Axes, panel: Panel, name: str, with_name: bool) -> None:
    axis.imshow(panel.image)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    truth = panel.masks.get(TRUTH)
    lines = [name] if with_name else []
    if name not in ('image', TRUTH):
        mask = panel.masks[name] != 0
        tint = np.zeros((*mask.shape, 4))
        tint[mask] = (*to_rgb(PREDICTION_COLOR), 0.45)
        axis.imshow(tint, interpolation='nearest')
        _outline(axis, mask, PREDICTION_COLOR, 0.8)
        if truth is not None:
            lines.append(_iou(mask, truth))
    if name != 'image' and truth is not None:
        _outline(axis, (truth != 0) & (truth != IGNORED), TRUTH_COLOR, 1.4)
    axis.set_title('\n'.join(lines), fontsize=10)


def _outline(axis: Axes, mask: np.ndarray, color: str, width: float) -> None:
    if not mask.any():
        return  # matplotlib warns about empty contours
    height, breadth = mask.shape
    # Padding closes outlines at the edge of the image.
    axis.contour(
        np.arange(-1, breadth + 1),
        np.arange(-1, height + 1),
        np.pad(mask, 1),
        levels=[0.5],
        colors=color,
        linewidths=width,
    )
    axis.set(xlim=(-0.5, breadth - 0.5), ylim=(height - 0.5, -0.5))


def _iou(mask: np.ndarray, truth: np.ndarray) -> str:
    counted, foreground = truth != IGNORED, truth != 0
    union = ((mask | foreground) & counted).sum()
    return f'IoU {100 * (mask & foreground & counted).sum() / union:.1f}' if union else 'both empty'
