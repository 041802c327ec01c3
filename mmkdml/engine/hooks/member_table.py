"""Table of the metrics of members and ensemble."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from prettytable import PrettyTable

from mmkdml.metric_info import AUXILIARY_GROUPS, metric_info
from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.registry import HOOKS

PER_CLASS = 'per_class'
# Groups of auxiliary metrics, which do not measure the quality of predictions.
_AUXILIARY = {*AUXILIARY_GROUPS, PER_CLASS}


def member_table(metrics: Mapping[str, Any]) -> str:
    """Format the values of ``MemberMetrics`` as a table.

    Args:
        metrics: Values by ``'<member>/<metric>'``, as returned by the evaluator. Entries without
            ``/``, values that are not numbers, and names that share no metric with another name
            (``accuracy/top1`` of a metric of only the ensemble) are left out, and so are the many
            values of the group ``per_class``.

    Returns:
        The table, with a row per name and a column per metric in their original order; an empty
        string if there are no rows. Headings are the last part of the metric with its unit
        (``IoU (%)`` for ``foreground/IoU``). If these are ambiguous or there are auxiliary metrics
        (fidelity, calibration), the first column of each group also has the group's name. The
        number of decimals depends on the unit; without a known unit it is two, or four if all
        values of the column are below 1. Missing values are ``-``, undefined ones ``nan``.
    """
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for key, value in metrics.items():
        name, slash, metric = key.partition('/')
        if slash and isinstance(value, Real) and not metric.startswith(f'{PER_CLASS}/'):
            rows[name][metric] = float(value)
    shared = Counter(metric for values in rows.values() for metric in values)
    rows = {
        name: values
        for name, values in rows.items()
        if name in (ENSEMBLE, PLAIN) or any(shared[metric] > 1 for metric in values)
    }
    if not rows:
        return ''
    columns = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    table = PrettyTable(['member', *columns], header=False, align='r')
    table.align['member'] = 'l'
    table.add_row(_headings(columns), divider=True)
    digits = {
        column: info.digits
        if (info := metric_info(column))
        else 4 - 2 * any(not abs(values.get(column, 0)) < 1 for values in rows.values())
        for column in columns
    }
    for name, values in rows.items():
        cells = (f'{values[c]:.{digits[c]}f}' if c in values else '-' for c in columns)
        table.add_row([name, *cells])
    return table.get_string()


def measures_by_member(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Select the measures of quality of members and ensemble, for a narrow table.

    Args:
        metrics: As of :func:`member_table`.

    Returns:
        Values by the last part of the measure with its unit (``IoU (%)``), by name. Auxiliary
        metrics and those of single classes are left out.
    """
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, *groups = key.split('/')
        if groups and groups_are_main(groups[:-1]) and isinstance(value, Real):
            rows.setdefault(name, {}).setdefault(_heading(key), float(value))
    several = len(rows) > 1 and any(
        set(values) & set(rows.get(ENSEMBLE, ()))
        for name, values in rows.items()
        if name != ENSEMBLE
    )
    return rows if several or PLAIN in rows else {}


def groups_are_main(groups: Sequence[str]) -> bool:
    """Return whether a metric in these groups measures the quality of all classes together."""
    return len(groups) <= 1 and not _AUXILIARY & set(groups)


def _heading(metric: str) -> str:
    info, short = metric_info(metric), metric.rpartition('/')[2]
    return f'{short} ({info.sign})' if info and info.sign else short


def _headings(columns: Sequence[str]) -> list[str]:
    groups = [metric.rpartition('/')[0] for metric in columns]
    short = list(map(_heading, columns))
    if len(set(short)) == len(short) and not _AUXILIARY & set(groups):
        return ['member', *short]
    firsts = [group if group not in groups[:place] else '' for place, group in enumerate(groups)]
    return ['\nmember', *map('\n'.join, zip(firsts, short, strict=True))]


@HOOKS.register_module()
class MemberTableHook(Hook):
    """Log the metrics of members and ensemble as a table after each validation and test."""

    priority = 'LOW'  # After the line of LoggerHook.

    @master_only
    def _table(self, runner: Runner, metrics: Mapping[str, Any] | None, title: str) -> None:
        table = member_table(metrics or {})
        if table:
            runner.logger.info(f'{title}\n{table}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the table of a validation."""
        self._table(runner, metrics, f'Members, validation after iteration {runner.iter}')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the table of a test."""
        self._table(runner, metrics, 'Members, test')
