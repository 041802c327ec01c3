"""The members and the ensemble in one table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from prettytable import PrettyTable

from mmkdml.evaluation.member_metrics import ENSEMBLE, PLAIN
from mmkdml.registry import HOOKS


def member_table(metrics: Mapping[str, Any]) -> str:
    """Puts the values of ``MemberMetrics`` in a table.

    Args:
        metrics: values by ``'<member>/<metric>'``, as the evaluator gives them. Other keys are
            left out: those without ``/``, values that are not numbers, and names that share no
            metric with another one (``accuracy/top1`` of a metric of the ensemble alone).

    Returns:
        Rows are the names in the given order, columns the metrics, by their last part where that
        is enough to tell them apart (``IoU`` for ``foreground/IoU``), values with two decimals,
        ``-`` where there is none. The empty string if there is nothing to show.
    """
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for key, value in metrics.items():
        name, slash, metric = key.partition('/')
        if slash and isinstance(value, Real):
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
    short = [metric.rpartition('/')[2] for metric in columns]
    table = PrettyTable(['member', *(short if len(set(short)) == len(short) else columns)])
    table.align = 'r'
    table.align['member'] = 'l'
    for name, values in rows.items():
        table.add_row([name, *(f'{values[c]:.2f}' if c in values else '-' for c in columns)])
    return table.get_string()


@HOOKS.register_module()
class MemberTableHook(Hook):
    """Logs the table of members after each validation and test, in the main process."""

    priority = 'LOW'  # after the logger's own line

    @master_only
    def _table(self, runner: Runner, metrics: Mapping[str, Any] | None, title: str) -> None:
        table = member_table(metrics or {})
        if table:
            runner.logger.info(f'{title}\n{table}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Logs the table of a validation.

        Args:
            runner: the runner.
            metrics: what the evaluator returned.
        """
        self._table(runner, metrics, f'Members, validation after iteration {runner.iter}')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Logs the table of a test.

        Args:
            runner: the runner.
            metrics: what the evaluator returned.
        """
        self._table(runner, metrics, 'Members, test')
