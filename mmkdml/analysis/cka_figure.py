"""Heat maps of CKA in the layout of the paper's Figures 6, 10 and 11."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmkdml.figures import ColorBar, figure_style, save_figure
from mmkdml.figures.sheets import PRINT_DPI, draw_bar, new_figure
from mmkdml.figures.text import text_height, text_width, wrap

COLUMNS = 4  # maps side by side
_CELL, _NUMBERED = 0.3, 0.24  # inches per layer; the smallest cell with a number
_TICK, _NUMBER, _LABEL, _TITLE = 7.0, 7.0, 7.5, 8.5  # font sizes in points
_MARGIN, _PAD, _BAR = 0.08, 0.06, 0.65  # inches
_COLORS = 'magma'


@dataclass
class _Map:
    """CKA of a pair of members of a run, with the labels of their layers."""

    run: str
    members: tuple[str, str]
    values: np.ndarray
    rows: list[str]
    columns: list[str]


def draw_cka(
    tables: Mapping[str, pd.DataFrame],
    paths: Sequence[str | os.PathLike],
    width: float | None = None,
) -> None:
    """Draw a heat map for each pair of members (rows) and run (columns).

    If no two runs share a pair, all maps are drawn side by side. The first layers are at the lower
    left. All maps have cells of one size and one color scale from 0 to 1, so they are comparable;
    values outside this range are noise and get the nearest color.

    Args:
        tables: Results of :func:`mmkdml.analysis.cka.measure_cka` by run.
        paths: Files to write: PNG, SVG or PDF, by suffix.
        width: Width of the figure in inches. Cells that become too small have no numbers. Default:
            as wide as needed.

    Raises:
        ValueError: If there is nothing to draw.
    """
    maps = {
        (run, pair): _map(run, table)
        for run, pairs in tables.items()
        for pair, table in pairs.groupby(['row', 'column'], sort=False)
    }
    if not maps:
        raise ValueError('Invalid tables: expected at least one pair of members, got none')
    pairs = list(dict.fromkeys(pair for _, pair in maps))
    if len(pairs) < len(maps):  # a run may lack a pair: mutual learning has no teacher
        grid = [[maps.get((run, pair)) for run in tables] for pair in pairs]
    else:
        every: list[_Map | None] = list(maps.values())
        across = COLUMNS if width is None else max(1, int(width / 3))
        grid = [every[start : start + across] for start in range(0, len(every), across)]
    with figure_style():
        figure = _draw_grid(grid, width, next(iter(tables)) if len(tables) == 1 else '')
    save_figure(figure, *paths, dpi=PRINT_DPI if width else None)


def _map(run: str, table: pd.DataFrame) -> _Map:
    names = {side: dict(zip(table[f'{side}_layer'], table[f'{side}_stage'], strict=True))
             for side in ('row', 'column')}  # fmt: skip
    values = table.pivot(index='row_layer', columns='column_layer', values='cka')
    return _Map(
        run,
        (table['row'].iloc[0], table['column'].iloc[0]),
        values.loc[list(names['row']), list(names['column'])].to_numpy(),
        list(names['row'].values()),
        list(names['column'].values()),
    )


def _draw_grid(grid: Sequence[Sequence[_Map | None]], width: float | None, heading: str) -> Figure:
    """Place the maps; all distances are computed from the sizes of the labels.

    A heading replaces the titles of the maps.
    """
    places = [(one, line) for line in grid for one in line if one is not None]
    # Labels of the left neighbor in a row count for a map with the same layers.
    labeled = {id(one): _needs_labels(one, line) for one, line in places}
    stacks = [[one for one in stack if one is not None] for stack in zip_longest(*grid)]
    layers = [max((len(one.columns) for one in stack), default=1) for stack in stacks]
    left = [
        max((_label_width(one.rows) for one in stack if labeled[id(one)]), default=0)
        for stack in stacks
    ]
    fixed = 2 * _MARGIN + _BAR + sum(left) + 2 * _PAD * len(stacks)
    if width is None:
        cell = _CELL
        width = fixed + cell * sum(layers)
    else:
        cell = max((width - fixed) / sum(layers), 0.02)
    heading = wrap(heading, width - 2 * _MARGIN, _TITLE, 2, 'bold')
    titles = {
        id(one): '' if heading else wrap(one.run, cell * len(one.columns), _TITLE, 2, 'bold')
        for one, _ in places
    }
    above = [max((text_height(titles[id(one)], _TITLE) for one in line if one), default=0)
             for line in grid]  # fmt: skip
    heights = [max((cell * len(one.rows) for one in line if one), default=0) for line in grid]
    below = [max((_label_width(one.columns) for one in line if one), default=0) for line in grid]
    height = (
        2 * _MARGIN
        + text_height(heading, _TITLE)
        + sum(above)
        + sum(heights)
        + sum(below)
        + 3 * _PAD * len(grid)
    )

    figure = new_figure(width, height)
    figure.suptitle(heading, y=1 - _MARGIN / height, fontsize=_TITLE, weight='bold')
    y = start_of_maps = _MARGIN + text_height(heading, _TITLE)
    for line, title, tall, labels in zip(grid, above, heights, below, strict=True):
        x, bottom = _MARGIN, y + title + _PAD + tall
        for one, start, count in zip(line, left, layers, strict=False):
            x += start + _PAD
            if one is not None:
                size = cell * len(one.columns), cell * len(one.rows)
                axes = figure.add_axes(
                    (x / width, 1 - bottom / height, size[0] / width, size[1] / height)
                )
                _draw(axes, one, labeled[id(one)], cell >= _NUMBERED)
                axes.set_title(titles[id(one)], fontsize=_TITLE, weight='bold', pad=72 * _PAD)
            x += cell * count + _PAD
        y = bottom + labels + 2 * _PAD
    top = start_of_maps + above[0] + _PAD
    length = min(heights[0], 2.2)
    place = (1 - (_BAR - _PAD) / width, 1 - (top + length) / height, 0.12 / width, length / height)
    draw_bar(figure.add_axes(place), ColorBar(mpl.colormaps[_COLORS], 'CKA'), length)
    return figure


def _needs_labels(one: _Map, line: Sequence[_Map | None]) -> bool:
    at = next(index for index, other in enumerate(line) if other is one)
    neighbor = next((other for other in reversed(line[:at]) if other is not None), None)
    return neighbor is None or (neighbor.rows, neighbor.members[0]) != (one.rows, one.members[0])


def _label_width(labels: Sequence[str]) -> float:
    """Return the space for tick labels and the name of the member, in inches."""
    return max(text_width(label, _TICK) for label in labels) + 2 * _LABEL / 72 + 2 * _PAD


def _draw(axes: Axes, one: _Map, with_labels: bool, with_numbers: bool) -> None:
    axes.imshow(one.values, origin='lower', vmin=0, vmax=1, cmap=_COLORS, aspect='auto')
    axes.set_facecolor('0.85')  # of nan
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2, pad=2, labelsize=_TICK)
    axes.set_xticks(range(len(one.columns)), one.columns, rotation=90)
    axes.set_yticks(range(len(one.rows)), one.rows if with_labels else [''] * len(one.rows))
    axes.set_xlabel(one.members[1], fontsize=_LABEL, labelpad=3)
    if with_labels:
        axes.set_ylabel(one.members[0], fontsize=_LABEL, labelpad=3)
    if not with_numbers:
        return
    for (row, column), value in np.ndenumerate(one.values):
        axes.text(
            column,
            row,
            '–' if np.isnan(value) else f'{value:.2f}',
            ha='center',
            va='center',
            fontsize=_NUMBER,
            color='white' if value <= 0.6 else 'black',
        )
