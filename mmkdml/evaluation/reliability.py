"""Reliability diagrams: accuracy by confidence."""

from __future__ import annotations

import math
import os

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mmkdml.evaluation.calibration import ALL, BOXES
from mmkdml.figures import figure_style, legend_below, member_color, save_figure, wrap

COLUMNS = 5
_TILE = 1.75  # inches


def draw_reliability(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Draw a reliability diagram for each region and member.

    Bars are the accuracy (precision of boxes) by confidence; the gap to the mean confidence is
    hatched. The line is the fraction of predictions in each bin.

    Args:
        table: Attribute ``table`` of :class:`Calibration`.
        path: File to write: PNG, SVG or PDF, according to its suffix.

    Raises:
        ValueError: If the table is empty.
    """
    if table.empty:
        raise ValueError('Invalid table: expected at least one row, got none')
    with figure_style():
        save_figure(_figure(table), path)


def _figure(table: pd.DataFrame) -> Figure:
    # Without predictions in a region (no foreground) there is nothing to draw.
    regions = [
        [(member, region, bins) for member, bins in own.groupby('member', sort=False)]
        for region, own in table[
            table.groupby(['region', 'member'])['count'].transform('any')
        ].groupby('region', sort=False)
    ]
    if len(regions) > 1 and table['member'].nunique() == 1:
        regions = [sum(regions, [])]  # one row
    columns = max(1, min(COLUMNS, max(map(len, regions), default=1)))
    panels = [own for region in regions for own in [*region, *[None] * (-len(region) % columns)]]
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(
        figsize=(max(_TILE * columns, 3.2) + 0.5, (_TILE + 0.32) * rows + 0.75),
        layout='constrained',
    )
    height = 'precision' if BOXES in set(table['region']) else 'accuracy'
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    members = list(table['member'].unique())
    for axes, panel in zip(grid.flat, panels, strict=False):
        if panel is None:
            axes.set_axis_off()
            continue
        member, region, bins = panel
        _draw(axes, bins, member_color(member, members))
        lines = [wrap(member, _TILE - 0.2, 9, 2)]
        if table['region'].nunique() > 1:
            lines.append('all pixels' if region == ALL else region)
        axes.set_title('\n'.join(lines))
    for axes in grid[-1]:
        axes.set_xlabel('Confidence')
    for axes in grid[:, 0]:
        axes.set_ylabel(height.capitalize())
    legend_below(
        figure,
        [
            Patch(facecolor='0.6', label=height),
            Patch(facecolor='none', edgecolor='0.3', hatch='//////', label='gap to the confidence'),
            Line2D([], [], color='0.3', linewidth=1, label='share of predictions'),
            Line2D([], [], color='0.3', linewidth=0.8, linestyle='--', label='ideal'),
        ],
    )
    return figure


def _draw(axes: Axes, bins: pd.DataFrame, color: str) -> None:
    known = bins[bins['count'] > 0]
    place = dict(x=known['low'], width=known['high'] - known['low'], align='edge')
    axes.bar(height=known['accuracy'], color=color, alpha=0.55, **place)
    gap = known['confidence'] - known['accuracy']
    axes.bar(
        height=gap,
        bottom=known['accuracy'],
        facecolor='none',
        edgecolor='0.3',
        hatch='//////',
        linewidth=0.6,
        **place,
    )
    axes.plot([0, 1], [0, 1], color='0.3', linewidth=0.8, linestyle='--')
    share = bins['count'] / bins['count'].sum()
    axes.stairs(share, np.append(bins['low'], 1), color='0.3', linewidth=1)
    error = (gap.abs() * known['count']).sum() / known['count'].sum()
    name = 'D-ECE' if BOXES in set(bins['region']) else 'ECE'
    axes.text(
        0.04, 0.96, f'{name} {error:.3f}', fontsize=7, va='top', transform=axes.transAxes,
        bbox=dict(facecolor='white', edgecolor='none', alpha=0.8, pad=1),
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_aspect('equal')
