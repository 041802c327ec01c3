"""Figure of a search: the metric as a function of each student's weights."""

from __future__ import annotations

from typing import Any

import mpltern  # noqa: F401  # registers the projection 'ternary'
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from mmkdml.figures import figure_style, wrap
from mmkdml.figures.sheets import new_figure
from mmkdml.figures.style import BLUE, GRAY
from mmkdml.metric_info import metric_info
from mmkdml.modes import LETTERS

_NAMES = dict(alpha='alpha (truth)', beta='beta (teacher)', gamma='gamma (peer)')
_PANEL, _HEIGHT, _BAR = 3.3, 3.5, 0.8  # inches
_STAR: dict[str, Any] = dict(marker='*', facecolor='none', edgecolor='black', linewidth=1.2)


@figure_style()
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
    width = _PANEL * len(students) + (_BAR if ternary else 0)
    # Layout engines and automatically placed titles take seconds with mpltern.
    figure = new_figure(width, _HEIGHT)
    left, right = (0.45, 0.45) if ternary else (0.55, 0.1)
    label = wrap(_metric_label(metric), 0.6 * _HEIGHT, 8, 2)
    for index, number in enumerate(students):
        columns = [f'{letter}_{number}' for letter in letters]
        place = (
            (_PANEL * index + left) / width,
            0.2,
            (_PANEL - left - right) / width,
            0.6 if ternary else 0.7,
        )
        axes = figure.add_axes(place, projection=projection)
        means = done.groupby(columns, as_index=False)['value'].mean()
        star = table.loc[table['trial'] == best, [*columns, 'value']]
        points = draw(axes, means, pruned[columns], star, label)
        title = 'both students' if tied else f'student {number}'
        figure.text(place[0] + place[2] / 2, 0.93, title, ha='center', fontsize=9)
        if points is not None:
            points.set_clim(done['value'].min(), done['value'].max())
    if points is not None:
        bar = figure.add_axes((1 - 0.7 / width, 0.2, 0.13 / width, 0.6))
        figure.colorbar(points, cax=bar, label=label)
    _add_legend(figure, not pruned.empty)
    return figure


def _metric_label(key: str) -> str:
    info, (member, _, _) = metric_info(key), key.partition('/')
    if info is None:
        return key
    return f'{info.label} of the {member}' if '/' in key else info.label


def _add_legend(figure: Figure, with_pruned: bool) -> None:
    kinds = [('*', 10, 'black', 'best trial'), ('x', 5, GRAY, 'pruned trial')]
    entries = [
        Line2D(
            [], [], linestyle='none', marker=marker, markersize=size, color=color,
            markerfacecolor='none', label=label,
        )
        for marker, size, color, label in kinds[: 1 + with_pruned]
    ]  # fmt: skip
    figure.legend(handles=entries, loc='lower center', ncols=2)


def _triangle(
    axes: Any, means: pd.DataFrame, pruned: pd.DataFrame, star: pd.DataFrame, label: str
) -> PathCollection:
    *letters, value = means.columns
    places = [[rows[letter] for letter in letters] for rows in (means, pruned, star)]
    color = dict(c=means[value], edgecolor='white')
    points = axes.scatter(*places[0], **color, s=45, zorder=3, clip_on=False)
    axes.scatter(*places[1], c=GRAY, marker='x', s=25, clip_on=False)
    axes.scatter(*places[2], **_STAR, s=140, zorder=4, clip_on=False)
    for name, letter in zip('tlr', LETTERS, strict=True):
        getattr(axes, f'set_{name}label')(_NAMES[letter])
        side = getattr(axes, f'{name}axis')
        side.set_major_locator(MultipleLocator(0.2))
        side.set_label_position('tick1')
    axes.grid(color='#DDDDDD', alpha=1)
    return points


def _line(
    axes: Axes, means: pd.DataFrame, pruned: pd.DataFrame, star: pd.DataFrame, label: str
) -> None:
    first, second, value = means.columns
    axes.plot(means[first], means[value], 'o-', color=BLUE, clip_on=False)
    axes.plot(pruned[first], [means[value].min()] * len(pruned), 'x', color=GRAY)
    axes.scatter(star[first], star[value], **_STAR, s=140, zorder=4, clip_on=False)
    axes.set_xlim(0, 1)
    names = [_NAMES[column[:-2]] for column in (first, second)]
    axes.set_xlabel(f'{names[0]};  {names[1]} = 1 - {first[:-2]}')
    axes.set_ylabel(label)
    axes.grid(color='#DDDDDD', alpha=1)
