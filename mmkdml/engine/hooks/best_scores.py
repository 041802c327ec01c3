"""Table of members on the console, with the best validation so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmkdml.console import Console
from mmkdml.engine.hooks.member_table import measures_by_member
from mmkdml.names import ENSEMBLE, PLAIN

#: Metrics of earlier validations by epoch, or by iteration in iteration-based training.
History = Callable[[Runner], Mapping[int, Mapping[str, float]]]


def print_scores(
    console: Console, metrics: Mapping[str, Any], best: Mapping[str, tuple[str, bool]] = {}
) -> int:
    """Print the main measures of the members.

    Args:
        console: Where to print them. Measures that do not fit are left out.
        metrics: Values by ``<member>/<measure>``.
        best: Heading, and then for each member its best value so far and whether it is this one.

    Returns:
        The number of metrics that are not in the table.
    """
    rows = {
        name: values
        for name, values in measures_by_member(metrics).items()
        if name in (ENSEMBLE, PLAIN) or len(values) > 0
    }
    if not rows:
        rows = {PLAIN: {key: value for key, value in metrics.items() if _is_number(value)}}
    rows.pop('students', None)
    measures = list(dict.fromkeys(key for values in rows.values() for key in values))
    cells = {key: _column([values.get(key) for values in rows.values()]) for key in measures}
    heading, last = '', []
    if best:
        (heading, _), *_ = [value for key, value in best.items() if not key]
        last = [best.get(name, ('', False)) for name in rows]
    room = console.width - max(map(len, [*rows, 'member'])) - 3
    room -= (
        max(len(heading.split('\n')[0]), *(len(text) + 2 for text, _ in last)) + 3 if best else 0
    )
    shown = []
    for key in measures:
        room -= max(len(key), *map(len, cells[key])) + 3
        if room >= 0:
            shown.append(key)
    table = [[name, *(cells[key][place] for key in shown)] for place, name in enumerate(rows)]
    marked = set()
    for place, (text, now) in enumerate(last):
        table[place].append(f'{text} *' if now else f'{text}  ')
        if now:
            marked.add((place, len(shown) + 1))
    console.table(['member', *shown, *([f'{heading}  '] if best else [])], table, bold=marked)
    return sum(map(_is_number, metrics.values())) - len(rows) * len(shown)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(values: Sequence[float | None]) -> list[str]:
    largest = max((abs(x) for x in values if x is not None and math.isfinite(x)), default=0)
    digits = 2 if largest >= 1 else 4
    return ['-' if x is None else f'{x:.{digits}f}' for x in values]


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
) -> dict[str, tuple[str, bool]]:
    """Find the best value of the monitored measure of each member; see :func:`print_scores`."""
    chosen = monitored(runner)
    if chosen is None:
        return {}
    key, greater = chosen
    _, _, measure = key.partition('/')
    unit = unit_of_time(runner)
    found = {'': (f'best {measure.rpartition("/")[2]} ({unit})', False)}
    for name in dict.fromkeys(one.partition('/')[0] for one in metrics):
        of_member = f'{name}/{measure}'
        values = {
            step: values[of_member]
            for step, values in {**history, now: metrics}.items()
            if _is_number(values.get(of_member)) and math.isfinite(values[of_member])
        }
        if values:
            best = max(values, key=lambda step: values[step] if greater else -values[step])
            digits = 2 if max(map(abs, values.values())) >= 1 else 4
            found[name] = (f'{values[best]:.{digits}f} ({best})', best == now)
    return found if len(found) > 1 else {}


def best_line(runner: Runner, now: int, saved_before: str | None) -> str:
    """Describe the best checkpoint so far, after it was saved."""
    info = runner.message_hub.runtime_info
    chosen, best = monitored(runner), info.get('best_ckpt')
    if chosen is None or not best:
        return ''
    name, score = Path(best).name, info.get('best_score')
    value = f' {float(score):.2f}' if _is_number(score) else ''
    key = chosen[0].replace('/', ' ')
    if best != saved_before:
        return f'Best so far: {key}{value}, saved as {name}'
    return f'Best so far: {key}{value} in {name}'


def unit_of_time(runner: Runner) -> str:
    """Return ``'epoch'``, or ``'iteration'`` in iteration-based training."""
    return 'iteration' if isinstance(runner.train_loop, IterBasedTrainLoop) else 'epoch'
