"""Table of members on the console, with the best validation so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmkdml.console import Console
from mmkdml.engine.hooks.member_table import measures_by_member
from mmkdml.names import ALL_STUDENTS, PLAIN

#: Metrics of earlier validations by epoch, or by iteration in iteration-based training.
History = Callable[[Runner], Mapping[int, Mapping[str, float]]]


@dataclass(frozen=True)
class BestScores:
    """Best values of the monitored measure so far.

    Attributes:
        heading: Heading of the column.
        texts: Value and epoch by member.
        new: Members whose best value is that of this validation.
    """

    heading: str
    texts: Mapping[str, str]
    new: Collection[str]


def print_scores(
    console: Console, metrics: Mapping[str, Any], best: BestScores | None = None
) -> int:
    """Print the main measures of the members; those that do not fit are left out.

    Args:
        console: Where to print them.
        metrics: Values by ``<member>/<measure>``.
        best: Last column of the table. New best values are marked by ``*``.

    Returns:
        The number of metrics that are not in the table.
    """
    numbers = {key: float(x) for key, x in metrics.items() if isinstance(x, Real)}
    rows = {key: x for key, x in measures_by_member(numbers).items() if key != ALL_STUDENTS}
    rows = rows or {PLAIN: numbers}
    columns = {'member': [*rows]}
    last = {}
    if best is not None:
        marks = [' *' if name in best.new else '  ' for name in rows]
        texts = [best.texts.get(name, '') for name in rows]
        last = {f'{best.heading}  ': [*map(''.join, zip(texts, marks, strict=True))]}
    for measure in dict.fromkeys(key for values in rows.values() for key in values):
        cells = _column([values.get(measure) for values in rows.values()])
        if _width({**columns, measure: cells, **last}) <= console.width:
            columns[measure] = cells
    bold = {(place, len(columns)) for place, name in enumerate(rows) if best and name in best.new}
    hidden = len(numbers) - len(rows) * (len(columns) - 1)
    columns |= last
    console.table([*columns], [*zip(*columns.values(), strict=True)], bold=bold)
    return hidden


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(max(map(len, [key, *cells])) + 3 for key, cells in columns.items()) - 3


def _column(values: Sequence[float | None]) -> list[str]:
    known = [x for x in values if x is not None]
    return ['-' if x is None else f'{x:.{_digits(known)}f}' for x in values]


def _digits(values: Iterable[float]) -> int:
    return 2 if any(math.isfinite(x) and abs(x) >= 1 for x in values) else 4


def monitored(runner: Runner) -> tuple[str, bool] | None:
    """Return the metric that selects the best checkpoint, and whether greater is better."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and getattr(hook, 'key_indicators', None):
            key, rule = hook.key_indicators[0], (hook.rules or [''])[0]
            if key != 'auto' and rule:
                return key, rule == 'greater'
    return None


def best_so_far(
    runner: Runner, metrics: Mapping[str, Any], now: int, history: Mapping[int, Mapping[str, Any]]
) -> BestScores | None:
    """Find the best value of the monitored measure of each member; None if nothing is monitored.

    Args:
        runner: The runner.
        metrics: Metrics of this validation.
        now: Epoch, or iteration in iteration-based training, of this validation.
        history: Metrics of earlier validations.
    """
    chosen = monitored(runner)
    if chosen is None:
        return None
    key, greater = chosen
    keys = {PLAIN: key}  # a network whose metrics name no member
    measure = key
    if measures_by_member(metrics):
        measure = key.partition('/')[2]
        names = dict.fromkeys(one.partition('/')[0] for one in metrics)
        keys = {name: f'{name}/{measure}' for name in names}
    best: dict[str, tuple[float, int]] = {}
    for name, own in keys.items():
        values = {
            step: float(value)
            for step, scores in {**history, now: metrics}.items()
            # The history, read from the results of a run, names each member.
            if isinstance(value := scores.get(own, scores.get(f'{name}/{own}')), Real)
            and math.isfinite(value)
        }
        if values:
            step = max(values, key=lambda one: values[one] if greater else -values[one])
            best[name] = values[step], step
    digits = _digits(value for value, _ in best.values())
    texts = {name: f'{value:.{digits}f} ({step})' for name, (value, step) in best.items()}
    heading = f'best {measure.rpartition("/")[2]} ({unit_of_time(runner)})'
    new = [name for name, (_, step) in best.items() if step == now]
    return BestScores(heading, texts, new) if best else None


def best_line(runner: Runner, saved_before: str | None) -> str:
    """Describe the best checkpoint so far, after it was saved."""
    info = runner.message_hub.runtime_info
    chosen, best = monitored(runner), info.get('best_ckpt')
    if chosen is None or not best:
        return ''
    name, score = Path(best).name, info.get('best_score')
    value = f' {score:.{_digits([float(score)])}f}' if isinstance(score, Real) else ''
    key = chosen[0].replace('/', ' ')
    if best != saved_before:
        return f'Best so far: {key}{value}, saved as {name}'
    return f'Best so far: {key}{value} in {name}'


def unit_of_time(runner: Runner) -> str:
    """Return ``'epoch'``, or ``'iteration'`` in iteration-based training."""
    return 'iteration' if isinstance(runner.train_loop, IterBasedTrainLoop) else 'epoch'
