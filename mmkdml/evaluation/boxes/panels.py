"""Figures of boxes: truth, and the boxes of members and ensemble side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mmkdml.evaluation.boxes.matching import match_boxes
from mmkdml.evaluation.boxes.samples import Boxes, TrueBoxes
from mmkdml.figures import class_color, figure_style, outline_boxes, save_figure, tile_sheet
from mmkdml.figures.style import TRUTH_COLOR
from mmkdml.names import TRUTH

FOUND, FALSE, MISSED = 'found', 'false', 'missed'
_LINES: dict[str, Any] = {FOUND: '-', FALSE: (0, (2.5, 1.5)), MISSED: (0, (1.2, 1.0))}
_IGNORED = '#B0B0B0'
_TILE = 2.2  # width of a tile in inches


class BoxPanel(NamedTuple):
    """Row of a figure.

    Attributes:
        image: (H, W, 3), uint8, RGB.
        boxes: Boxes by name of the column, in order, in pixels of the image.
        truth: True boxes of the first column, with which the others are compared; None if unknown.
        title: Text to the left of the row.
        spacing: Height and width of a pixel in millimeters; None if unknown.
    """

    image: np.ndarray
    boxes: Mapping[str, Boxes]
    truth: TrueBoxes | None = None
    title: str = ''
    spacing: tuple[float, float] | None = None


class Comparison(NamedTuple):
    """Predicted boxes of an image compared with the true ones at IoU 0.5, class by class.

    Boxes that are matched with ignored true boxes are in none of the parts.

    Attributes:
        found: Indices of the predicted boxes that are matched with a true box.
        false: Indices of the others.
        missed: Indices of the true boxes that are not found.
    """

    found: np.ndarray
    false: np.ndarray
    missed: np.ndarray

    @property
    def f1(self) -> float:
        """F1 in percent; ``nan`` if there are neither true nor predicted boxes."""
        total = 2 * len(self.found) + len(self.false) + len(self.missed)
        return 200 * len(self.found) / total if total else np.nan

    def __str__(self) -> str:
        number = len(self.found) + len(self.missed)
        text = f'{len(self.found)} of {number} found' if number else 'no true boxes'
        return f'{text}, {len(self.false)} false'


def compare_boxes(boxes: Boxes, truth: TrueBoxes) -> Comparison:
    """Match predicted boxes with true ones by :func:`match_boxes`."""
    matches = match_boxes(*boxes, truth.boxes, truth.labels, 0.5, truth.ignored)
    counted = (matches >= 0) & ~np.append(truth.ignored, False)[matches]
    missed = np.setdiff1d(np.flatnonzero(~truth.ignored), matches)
    return Comparison(np.flatnonzero(counted), np.flatnonzero(matches < 0), missed)


def draw_box_sheet(
    panels: Sequence[BoxPanel], path: str | os.PathLike, classes: Sequence[str] = ()
) -> None:
    """Draw a row per panel: the true boxes, then a column for the boxes of each member.

    Each class has a color. Lines are solid if a box is matched with a true one at IoU 0.5, dashed
    if it is false, and dotted, in the color of the truth, if a true box was missed.

    Args:
        panels: Rows, all with the same columns, with the boxes to draw; see :meth:`Boxes.above`.
        path: File to write: PNG, SVG or PDF, according to its suffix; missing folders are created.
        classes: Names of all classes, for the legend.

    Raises:
        ValueError: If there are no panels, their columns differ, or an image is not (H, W, 3)
            uint8.
    """
    columns = [list(panel.boxes) for panel in panels]
    images = [(panel.image.shape[2:], panel.image.dtype) for panel in panels]
    if (
        not panels
        or any(panel.truth is None for panel in panels)
        or any(one != columns[0] for one in columns)
        or any(one != ((3,), np.uint8) for one in images)
    ):
        raise ValueError(
            'Invalid panels: expected at least one, with true boxes, the same columns in all rows, '
            f'and images (H, W, 3) of uint8, got {columns} and {images}'
        )
    with figure_style():
        figure, grid = tile_sheet(
            [_captions(panel) for panel in panels],
            [panel.image.shape[0] / panel.image.shape[1] for panel in panels],
            [TRUTH, *columns[0]],
            [panel.title for panel in panels],
            legend=legend_of_boxes([panel.truth for panel in panels if panel.truth], classes),
            tile_width=_TILE,
        )
        for panel, line in zip(panels, grid, strict=True):
            for axes, boxes in zip(line, (None, *panel.boxes.values()), strict=True):
                axes.imshow(panel.image)
                draw_boxes(axes, boxes, panel.truth)
        save_figure(figure, path)


def draw_boxes(axes: Axes, boxes: Boxes | None, truth: TrueBoxes | None) -> None:
    """Draw boxes on axes that show their image; see :func:`draw_box_sheet`.

    Args:
        axes: The axes.
        boxes: Predicted boxes. None: draw the true boxes, the ignored ones gray.
        truth: True boxes.
    """
    assert truth is not None
    if boxes is None:
        colors = [
            _IGNORED if ignored else class_color(int(label))
            for label, ignored in zip(truth.labels, truth.ignored, strict=True)
        ]
        outline_boxes(axes, truth.boxes, colors)
        return
    compared = compare_boxes(boxes, truth)
    matched = np.setdiff1d(np.arange(len(boxes.labels)), compared.false)
    for kind, chosen in ((FOUND, matched), (FALSE, compared.false)):
        colors = [class_color(int(label)) for label in boxes.labels[chosen]]
        outline_boxes(axes, boxes.boxes[chosen], colors, _LINES[kind])
    missed = truth.boxes[compared.missed]
    outline_boxes(axes, missed, [TRUTH_COLOR] * len(missed), _LINES[MISSED])


def legend_of_boxes(truths: Sequence[TrueBoxes], classes: Sequence[str] = ()) -> list[Artist]:
    """Return the entries of a legend: the kinds of lines, and the classes."""
    entries: list[Artist] = [
        Line2D([], [], color=TRUTH_COLOR if kind == MISSED else '0.3', linestyle=line, label=kind)
        for kind, line in _LINES.items()
    ]
    labels = np.unique([label for one in truths for label in one.labels]).astype(int)
    names = dict(enumerate(classes)) or {label: f'class {label}' for label in labels.tolist()}
    patches = [
        Patch(facecolor=class_color(label), edgecolor='0.3', label=name)
        for label, name in names.items()
    ]
    return [*entries, *patches]


def count_true_boxes(truth: TrueBoxes) -> str:
    """Return the number of true boxes as a caption."""
    number, ignored = (~truth.ignored).sum(), truth.ignored.sum()
    boxes = '1 box' if number == 1 else f'{number} boxes'
    return boxes + (f', {ignored} ignored' if ignored else '')


def _captions(panel: BoxPanel) -> list[str]:
    truth = panel.truth
    assert truth is not None
    own = [str(compare_boxes(boxes, truth)) for boxes in panel.boxes.values()]
    return [count_true_boxes(truth), *own]
