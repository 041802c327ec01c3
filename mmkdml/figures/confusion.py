"""Figure of confusion matrices."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from mmkdml.figures.style import GRAY, figure_style, save_figure
from mmkdml.figures.text import wrap

_COLUMNS = 3
_LONGEST = 1.1  # width of a class name in inches


def draw_confusion(
    matrices: Mapping[str, np.ndarray], classes: Sequence[str], path: str | os.PathLike
) -> None:
    """Draw a confusion matrix per member: the color is the share of the true class.

    Args:
        matrices: Counts by member, each (K, K): true classes (rows), predicted ones (columns).
        classes: Names of the K classes.
        path: File to write: PNG, SVG or PDF, according to its suffix.

    Raises:
        ValueError: If there are no matrices, or one is not (K, K).
    """
    number = len(classes)
    wrong = {name: one.shape for name, one in matrices.items() if one.shape != (number, number)}
    if not matrices or wrong:
        raise ValueError(
            f'Invalid matrices: expected one or more of ({number}, {number}), got {wrong or "none"}'
        )
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(matrices))))
    rows = math.ceil(len(matrices) / columns)
    side = max(2.0, 0.42 * number + 0.6)
    with figure_style():
        figure = Figure(
            figsize=(columns * side + 1.8, rows * (side + 0.3) + 1.2), layout='constrained'
        )
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (name, matrix) in zip(grid.flat, matrices.items(), strict=False):
            image = _draw(axes, matrix)
            axes.set_title(wrap(name, side, 9, 2), parse_math=False)
        for axes in grid.flat[len(matrices) :]:
            axes.set_axis_off()
        names = [wrap(name, _LONGEST, 7, 1) for name in classes]
        for axes in grid.flat:
            axes.set_xticks(
                range(number), names, rotation=45, ha='right', fontsize=7, parse_math=False
            )
            axes.set_yticks(range(number), names, fontsize=7, parse_math=False)
        for column in range(columns):  # the last row may be shorter
            lowest = (len(matrices) - 1 - column) // columns
            grid[lowest, column].tick_params(labelbottom=True)
        figure.supxlabel('predicted class')
        figure.supylabel('true class')
        figure.colorbar(image, ax=grid, shrink=0.6, label='share of the true class (%)')
    save_figure(figure, path)


def _draw(axes: Axes, matrix: np.ndarray) -> AxesImage:
    totals = matrix.sum(1, keepdims=True)
    share = 100 * matrix / np.maximum(totals, 1)
    image = axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
    axes.grid(False)
    for (row, column), count in np.ndenumerate(matrix):
        color = 'white' if share[row, column] > 60 else 'black' if count else GRAY
        axes.text(column, row, f'{count}', ha='center', va='center', fontsize=7, color=color)
    return image
