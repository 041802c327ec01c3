"""Heat maps of CKA in the layout of the paper's Figures 6, 10 and 11."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

MAX_NUMBERED = 12  # layers per side; cells of more layers are too small for numbers
COLUMNS = 4


def draw_cka(tables: Mapping[str, pd.DataFrame], paths: Sequence[str | os.PathLike]) -> None:
    """Draw a heat map for each pair of members (rows) and run (columns).

    If no two runs share a pair, all maps are drawn side by side. The first layers are at the lower
    left. All maps use one color scale from 0 to 1, so figures are comparable; values outside this
    range are noise and get the nearest color.

    Args:
        tables: Results of :func:`mmkdml.analysis.cka.measure_cka` by run.
        paths: Files to write: PNG, SVG or PDF, by suffix.

    Raises:
        ValueError: If there is nothing to draw.
    """
    maps = {
        (run, pair): table
        for run, pairs in tables.items()
        for pair, table in pairs.groupby(['row', 'column'], sort=False)
    }
    if not maps:
        raise ValueError('Invalid tables: expected at least one pair of members, got none')
    rows = list(dict.fromkeys(pair for _, pair in maps))
    if len(rows) < len(maps):
        places = [(run, pair) for pair in rows for run in tables]
        shape = len(rows), len(tables)
    else:
        places = list(maps)
        shape = math.ceil(len(maps) / COLUMNS), min(len(maps), COLUMNS)
    side = max(3.0, 0.42 * max(table['row_layer'].nunique() for table in maps.values()) + 1.2)
    figure = Figure(
        figsize=(side * shape[1] + 0.8, side * shape[0] + 0.3), dpi=120, layout='constrained'
    )
    grid = figure.subplots(*shape, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, place in zip(grid.flat, places, strict=False):
        if place in maps:  # a run may lack a pair: mutual learning has no teacher
            image = _draw(axes, maps[place])
            axes.set_title(place[0], fontsize=10)
    figure.colorbar(image, ax=grid, label='CKA', shrink=0.8 / shape[0], extend='min')
    for path in paths:
        figure.savefig(path)


def _draw(axes: Axes, table: pd.DataFrame) -> AxesImage:
    axes.set_axis_on()
    values = table.pivot(index='row_layer', columns='column_layer', values='cka')
    rows, columns = (list(dict.fromkeys(table[key])) for key in ('row_layer', 'column_layer'))
    values = values.loc[rows, columns].to_numpy()
    image = axes.imshow(values, origin='lower', vmin=0, vmax=1, cmap='magma')
    axes.set_xticks(range(len(columns)), map(_short, columns), rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), map(_short, rows), fontsize=7)
    axes.set_xlabel(table['column'].iloc[0])
    axes.set_ylabel(table['row'].iloc[0])
    if max(values.shape) <= MAX_NUMBERED:
        for (row, column), value in np.ndenumerate(values):
            axes.text(
                column,
                row,
                f'{value:.2f}',
                ha='center',
                va='center',
                fontsize=6,
                color='black' if value > 0.6 else 'white',
            )
    return image


def _short(layer: str) -> str:
    """Shorten ``decode_head.blocks.0`` to ``blocks.0``: every network has the removed prefixes."""
    for part in ('backbone.', 'timm_model.', 'decode_head.', 'head.', 'neck.'):
        layer = layer.removeprefix(part)
    return layer
