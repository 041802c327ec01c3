"""Figure of a search: the metric as a function of each student's weights."""

from __future__ import annotations

from typing import Any

import mpltern  # noqa: F401  # registers the projection 'ternary'
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from mmkdml.figures.style import BLUE, GRAY
from mmkdml.modes import LETTERS

_STAR: dict[str, Any] = dict(
    marker='*', s=220, facecolor='none', edgecolor='black', linewidth=1.2, zorder=4, clip_on=False
)


def draw_landscape(table: pd.DataFrame, metric: str, best: int) -> Figure:
    """Draw the metric of all complete trials over the weights, with one panel per student.

    Three weights are drawn as a ternary plot with the metric as color, two as a line plot over the
    first weight. Trials in which a student has the same weights are averaged. Pruned trials are
    gray crosses, because their values are not comparable. If both students have the same weights in
    all complete trials, there is one panel.

    The trial with the number ``best`` is marked with a star.

    Raises:
        ValueError: If the table has no complete trial, or not two or three weights.
    """
    letters = [letter for letter in LETTERS if f'{letter}_1' in table]
    if len(letters) < 2 or 'complete' not in set(table['state']):
        raise ValueError(
            'Invalid trials: expected a complete trial and two or three weights, got '
            f'{len(letters)} weights and the states {sorted(set(table["state"]))}'
        )
    done, pruned = (table[table['state'] == state] for state in ('complete', 'pruned'))
    tied = all((done[f'{letter}_1'] == done[f'{letter}_2']).all() for letter in letters)
    students = ['1'] if tied else ['1', '2']
    ternary = len(letters) == 3
    draw, projection = (_triangle, 'ternary') if ternary else (_line, None)
    figure = Figure(figsize=(5 * len(students) + ternary, 4.6))
    # Layout engines and automatically placed titles take seconds with mpltern.
    figure.subplots_adjust(left=0.08, right=0.97, bottom=0.12, top=0.84, wspace=0.3)
    for index, number in enumerate(students, 1):
        columns = [f'{letter}_{number}' for letter in letters]
        axes = figure.add_subplot(1, len(students), index, projection=projection)
        means = done.groupby(columns, as_index=False)['value'].mean()
        star = table.loc[table['trial'] == best, [*columns, 'value']]
        points = draw(axes, means, pruned[columns], star, metric)
        axes.set_title(
            'both students' if tied else f'student {number}', y=1.12 if ternary else 1.02
        )
        if points is not None:
            points.set_clim(done['value'].min(), done['value'].max())
    if points is not None:
        figure.colorbar(points, ax=figure.axes, label=metric, pad=0.1, shrink=0.8)
    return figure


def _triangle(
    axes: Any, means: pd.DataFrame, pruned: pd.DataFrame, star: pd.DataFrame, metric: str
) -> PathCollection:
    *letters, value = means.columns
    places = [[rows[letter] for letter in letters] for rows in (means, pruned, star)]
    color = dict(c=means[value], edgecolor='white')
    points = axes.scatter(*places[0], **color, s=60, zorder=3, clip_on=False)
    axes.scatter(*places[1], c=GRAY, marker='x', s=30, clip_on=False)
    axes.scatter(*places[2], **_STAR)
    for name, letter in zip('tlr', LETTERS, strict=True):
        getattr(axes, f'set_{name}label')(letter)
        side = getattr(axes, f'{name}axis')
        side.set_major_locator(MultipleLocator(0.2))
        side.set_label_position('tick1')
    axes.grid(color='#DDDDDD')
    return points


def _line(
    axes: Axes, means: pd.DataFrame, pruned: pd.DataFrame, star: pd.DataFrame, metric: str
) -> None:
    first, second, value = means.columns
    axes.plot(means[first], means[value], 'o-', color=BLUE)
    axes.plot(pruned[first], [means[value].min()] * len(pruned), 'x', color=GRAY)
    axes.scatter(star[first], star[value], **_STAR)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f'{first[:-2]}; {second[:-2]} = 1 - {first[:-2]}')
    axes.set_ylabel(metric)
    axes.grid(color='#DDDDDD')
