"""Charts of a summary: losses, validations, learning rate, loss balance."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mmkdml.apis.summary.history import Evaluation, History, learner_of, match_transfer
from mmkdml.apis.summary.measures import (
    best_value,
    class_of,
    group_of,
    main_measure,
    measures_of,
    title_of,
    value_of,
)
from mmkdml.figures import PALETTE, member_color
from mmkdml.html import Line, line_chart
from mmkdml.html.theme import SERIES
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, PLAIN

_RATIO = re.compile(r'gradient_ratio/(?P<learner>.+)\.from_(?P<source>.+)\.(?P<knowledge>[^.]+)')
_MAX_EXTRA = 5
# Limits of LossBalanceHook.
_DOMINANT, _NEGLIGIBLE = 10, 1e-3


@dataclass(frozen=True)
class Chart:
    """Chart with its lines for the legend, and a caption."""

    caption: str
    svg: Markup
    lines: Sequence[Line]


@dataclass(frozen=True)
class Balance:
    """Gradient norm of a transfer relative to the supervised losses of its learner."""

    name: str
    last: float
    low: float
    high: float

    @property
    def verdict(self) -> tuple[str, str]:
        """Verdict on the last value, and its kind for a badge."""
        if not math.isfinite(self.last):
            return 'undefined', 'bad'
        if self.last > _DOMINANT:
            return 'dominates', 'bad'
        return ('no effect', 'bad') if self.last < _NEGLIGIBLE else ('balanced', 'good')


def _chart(caption: str, lines: Sequence[Line], history: History) -> list[Chart]:
    x_label = 'epoch' if history.by_epoch else 'iteration'
    svg = line_chart(lines, x_label, f'{caption} by {x_label}')
    return [Chart(caption, svg, lines)] if svg else []


def loss_charts(history: History) -> list[Chart]:
    """Draw the losses of each member: supervised, and one line per transfer."""
    charts = []
    for member in history.members:
        own = {key: one for key, one in history.losses.items() if learner_of(key) == member}
        if member == PLAIN:
            own = {key: one for key, one in history.losses.items() if 'loss' in key}
            own = {key: one for key, one in own.items() if key != 'loss'} or own
        lines = [
            Line(_loss_name(key, member), points, style)
            for (key, points), style in zip(own.items(), _styles(own, member, history), strict=True)
        ]
        charts += _chart(f'Losses of {member} (weighted)', lines, history) if lines else []
    return charts


def _styles(keys: Iterable[str], member: str, history: History) -> list[int]:
    """Give a transfer the color of its source, and other losses that of the member.

    Further lines of one color are dashed.
    """
    styles: list[int] = []
    for key in keys:
        found = match_transfer(key)
        style = _style(found['source'] if found else member, history)
        while style in styles:
            style += len(SERIES)
        styles.append(style)
    return styles


def _style(member: str, history: History) -> int:
    """Return the color of a member, as in figures."""
    return PALETTE.index(member_color(member, history.members))


def _loss_name(key: str, member: str) -> str:
    if found := match_transfer(key):
        return f'from {found["source"]}, {found["knowledge"]}'
    name = key.removeprefix(f'{member}.')
    return f'supervised ({name})'


def validation_charts(history: History) -> tuple[list[Chart], list[Chart]]:
    """Draw the validations by member: the main measure, and further measures of quality."""
    validations = [one for one in history.evaluations if one.split == 'val']
    measures = measures_of(validations)
    main = main_measure(history)

    def place(one: Evaluation) -> float:
        return float((one.epoch if history.by_epoch else one.iter) or 0)

    charts: dict[str, list[Chart]] = {}
    for measure in measures:
        if group_of(measure) or class_of(measure):
            continue
        lines: list[Line] = []
        for name in (*history.members, ENSEMBLE, PLAIN):
            points = [
                (place(one), value_of(one, name, measure))
                for one in validations
                if measure in one.values.get(name, {})
            ]
            if points and name not in {line.name for line in lines} | {ALL_STUDENTS}:
                best = best_value(points, measure)
                lines.append(Line(name, points, _style(name, history), best))
        if lines:
            charts[measure] = _chart(title_of(measure), lines, history)
    first = charts.pop(main, []) if main else []
    return first, [one for each in charts.values() for one in each][:_MAX_EXTRA]


def learning_rate_chart(history: History) -> list[Chart]:
    """Draw the learning rate."""
    points = history.losses.get('lr', [])
    return _chart('Learning rate', [Line('lr', points)], history) if points else []


def loss_balance(history: History) -> tuple[list[Chart], list[Balance]]:
    """Draw and list the gradient ratios that ``LossBalanceHook`` logs.

    As in the hook, the ratio of an epoch is that of the mean norms.
    """
    lines: list[Line] = []
    rows: list[Balance] = []
    for key, points in history.losses.items():
        if found := _RATIO.fullmatch(key):
            name = f'{found["source"]} → {found["learner"]}, {found["knowledge"]}'
            lines.append(Line(name, points, len(lines)))
            norms = [
                _mean_of_last_epoch(history, f'gradient/{found["learner"]}.{part}')
                for part in (f'from_{found["source"]}.{found["knowledge"]}', 'supervised')
            ]
            ratio = norms[0] / norms[1] if norms[1] else math.nan
            known = [value for _, value in points if math.isfinite(value)] or [math.nan]
            rows.append(Balance(name, ratio, min(known), max(known)))
    caption = 'Gradient of each transfer relative to the supervised losses'
    return _chart(caption, lines, history) if lines else [], rows


def _mean_of_last_epoch(history: History, key: str) -> float:
    """Return the mean over the last epoch, or the last quarter of the iterations."""
    points = history.losses.get(key, [])
    end = points[-1][0] if points else 0
    start = end - (1 if history.by_epoch else end / 4)
    values = [value for x, value in points if x > start]
    return sum(values) / len(values) if values else math.nan
