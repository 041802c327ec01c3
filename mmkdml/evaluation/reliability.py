"""Reliability diagrams: accuracy by confidence."""

from __future__ import annotations

import math
import os

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 4
# Blue and vermilion of Okabe and Ito, distinct with every kind of color vision.
ACCURACY_COLOR, GAP_COLOR = '#0072B2', '#D55E00'


def draw_reliability(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Draw a reliability diagram for each region and member.

    Bars are the accuracy by confidence; the gap to the mean confidence is hatched. The line is the
    fraction of predictions in each bin.

    Args:
        table: Attribute ``table`` of :class:`Calibration`.
        path: File to write: PNG, SVG or PDF, according to its suffix.

    Raises:
        ValueError: If the table is empty.
    """
    if table.empty:
        raise ValueError('Invalid table: expected at least one row, got none')
    # Without predictions in a region (no foreground) there is nothing to draw.
    panels = {
        key: bins
        for key, bins in table.groupby(['region', 'member'], sort=False)
        if bins['count'].sum()
    }
    columns = max(1, min(COLUMNS, table['member'].nunique()))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.8 * rows + 0.6), dpi=120, layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, ((region, member), bins) in zip(grid.flat, panels.items(), strict=False):
        _draw(axes, bins)
        title = member if table['region'].nunique() == 1 else f'{member}, {region}'
        axes.set_title(title, fontsize=10)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel('confidence')
    for axes in grid[:, 0]:
        axes.set_ylabel('accuracy')
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower center', ncols=len(labels), frameon=False, fontsize=9
    )
    figure.savefig(path)


def _draw(axes: Axes, bins: pd.DataFrame) -> None:
    known = bins[bins['count'] > 0]
    place = dict(x=known['low'], width=known['high'] - known['low'], align='edge')
    axes.bar(height=known['accuracy'], color=ACCURACY_COLOR, label='accuracy', **place)
    axes.bar(
        height=known['confidence'] - known['accuracy'],
        bottom=known['accuracy'],
        facecolor='none',
        edgecolor=GAP_COLOR,
        hatch='////',
        linewidth=0.8,
        label='gap to the confidence',
        **place,
    )
    axes.plot([0, 1], [0, 1], color='black', linewidth=0.8, linestyle='--')
    share = bins['count'] / bins['count'].sum()
    axes.stairs(
        share, np.append(bins['low'], 1), color='black', linewidth=1, label='share of predictions'
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect('equal')
