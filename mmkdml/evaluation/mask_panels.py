"""Figures of masks: image, truth, and the masks of members and ensemble side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mmkdml.figures import (
    add_scale_bar,
    class_color,
    figure_style,
    outline,
    save_figure,
    tile_sheet,
)
from mmkdml.figures.style import PREDICTION_COLOR, TRUTH_COLOR
from mmkdml.names import IGNORED, TRUTH

_FILLING = 0.4  # opacity


class Panel(NamedTuple):
    """Row of a figure.

    Attributes:
        image: (H, W, 3), uint8, RGB.
        masks: Masks (H, W) of class indices by name of the column, in order; 0 is the background.
            ``'truth'``, in which 255 is ignored, is outlined in every column, and the captions
            contain the IoU with it: for several foreground classes, the mean over those in either
            mask.
        title: Text to the left of the row.
        spacing: Height and width of a pixel in millimeters; None if unknown.
    """

    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    title: str = ''
    spacing: tuple[float, float] | None = None


def draw_panel(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    path: str | os.PathLike,
    classes: Sequence[str] = (),
) -> None:
    """Draw one image and its masks in a row; see :func:`draw_sheet`."""
    draw_sheet([Panel(image, masks)], path, classes)


def draw_sheet(
    panels: Sequence[Panel], path: str | os.PathLike, classes: Sequence[str] = ()
) -> None:
    """Draw a row per panel: the image, then a column per mask.

    With one foreground class, truth and predictions have a color each. With several, each class
    has a color; predictions are filled, and the truth is outlined.

    Args:
        panels: Rows, all with the same columns.
        path: File to write: PNG, SVG or PDF, according to its suffix; missing folders are created.
        classes: Names of all classes with the background, for the legend.

    Raises:
        ValueError: If there are no panels, their columns differ, an image is not (H, W, 3) uint8,
            or a mask differs in size from its image.
    """
    if not panels:
        raise ValueError('Invalid panels: expected at least one, got none')
    columns = list(panels[0].masks)
    for panel in panels:
        _check(panel, columns)
    with figure_style():
        save_figure(_figure(panels, columns, classes), path)


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


def _figure(panels: Sequence[Panel], columns: Sequence[str], classes: Sequence[str]) -> Figure:
    labels = _labels(*(mask for panel in panels for mask in panel.masks.values())).tolist()
    several = len(classes) > 2 or max(labels, default=0) > 1
    figure, grid = tile_sheet(
        [['', *(_caption(panel, name, several) for name in columns)] for panel in panels],
        [_pixel(panel) * panel.image.shape[0] / panel.image.shape[1] for panel in panels],
        ['image', *columns],
        [panel.title for panel in panels],
        legend=_legend(labels, several, classes, TRUTH in columns),
    )
    for panel, row in zip(panels, grid, strict=True):
        for axes, name in zip(row, ['image', *columns], strict=True):
            _draw(axes, panel, name, several)
        if panel.spacing:
            add_scale_bar(row[0], panel.spacing[1])
    return figure


def _pixel(panel: Panel) -> float:
    """Return the height of a pixel relative to its width."""
    return panel.spacing[0] / panel.spacing[1] if panel.spacing else 1.0


def _labels(*masks: np.ndarray) -> np.ndarray:
    """Return the foreground classes of masks."""
    labels = np.unique([label for mask in masks for label in np.unique(mask)]).astype(int)
    return labels[(labels != 0) & (labels != IGNORED)]


def _legend(
    labels: Sequence[int], several: bool, classes: Sequence[str], with_truth: bool
) -> list[Artist]:
    truth, filling = (TRUTH_COLOR, PREDICTION_COLOR) if not several else ('0.3', '0.3')
    entries: list[Artist] = []
    if with_truth:
        entries.append(Line2D([], [], color=truth, linewidth=2, label=TRUTH))
    entries.append(
        Patch(facecolor=(*to_rgb(filling), _FILLING), edgecolor=filling, label='prediction')
    )
    for label in labels if several else ():
        name = classes[label] if label < len(classes) else f'class {label}'
        entries.append(Patch(facecolor=class_color(label - 1), edgecolor='0.3', label=name))
    return entries


def _draw(axes: Axes, panel: Panel, name: str, several: bool) -> None:
    axes.imshow(panel.image, aspect=_pixel(panel))
    truth = panel.masks.get(TRUTH)
    if name not in ('image', TRUTH):
        mask = panel.masks[name]
        tint = np.zeros((*mask.shape, 4))
        for label in _labels(mask):
            color = class_color(label - 1)
            tint[mask == label] = (*to_rgb(color), _FILLING)
            if not several:
                outline(axes, mask == label, color, 0.8)
        axes.imshow(tint, aspect=_pixel(panel))
    if name != 'image' and truth is not None:
        for label in _labels(truth):
            color = class_color(label - 1) if several else TRUTH_COLOR
            outline(axes, truth == label, color, 1.4, edge=several)


def _caption(panel: Panel, name: str, several: bool) -> str:
    mask, truth = panel.masks[name], panel.masks.get(TRUTH)
    empty = not len(_labels(mask))
    if name == TRUTH or truth is None:
        return f'{name} is empty' if empty and name == TRUTH else 'found nothing' if empty else ''
    counted = truth != IGNORED
    scores = []
    for label in _labels(np.where(counted, mask, 0), truth):
        own, true = (mask == label) & counted, truth == label
        scores.append(100 * (own & true).sum() / (own | true).sum())
    if not scores:
        return 'both empty'
    caption = f'{"mean " if several else ""}IoU {np.mean(scores):.1f} %'
    return f'{caption}, found nothing' if empty else caption
