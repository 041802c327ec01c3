"""First screen of a report: the best variant, and the ensembles against teachers and students."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmkdml.experiments.paper.claims import HOLDS, NOT_COMPUTABLE, OPPOSITE, UNDECIDED, ClaimResult
from mmkdml.experiments.report.cells import TableCell
from mmkdml.experiments.report.labels import metric_label, verdict_label
from mmkdml.experiments.report.results import ResultRow, ResultTable
from mmkdml.html import IntervalAxis
from mmkdml.names import ENSEMBLE

#: Verdicts in the order of reports, with their kind (color and marker).
VERDICTS = {HOLDS: 'good', OPPOSITE: 'bad', UNDECIDED: 'neutral', NOT_COMPUTABLE: 'neutral'}


@dataclass(frozen=True)
class Answer:
    """Summary of one measure with the best checkpoints.

    Attributes:
        table: Results of the measure.
        ranked: Rows with ensembles, or with single networks if there are none; best first.
        verdicts: Number of claims by verdict.
        axis: Axis of the differences.
    """

    table: ResultTable
    ranked: Sequence[ResultRow]
    verdicts: Sequence[tuple[str, str, int]]
    axis: IntervalAxis

    @property
    def best(self) -> ResultRow:
        """Row with the best value."""
        return self.ranked[0]

    @property
    def cell(self) -> TableCell:
        """Best value."""
        return self.best.cells[ENSEMBLE]

    @property
    def option(self) -> tuple[str, str]:
        """Value and text of the switch between measures."""
        key = self.table.metric.key
        return key, metric_label(key)

    @property
    def held(self) -> int:
        """Number of claims that hold."""
        return sum(count for verdict, _, count in self.verdicts if verdict == HOLDS)

    @staticmethod
    def kind(result: ClaimResult) -> str:
        """Return the kind of a claim's verdict."""
        return VERDICTS[result.outcome]

    def all_of(self, family: str) -> str:
        """Count the verdicts of all variants in a family of :data:`~.results.DIFFERENCES`."""
        results = [row.differences[family] for row in self.ranked if family in row.differences]
        counts = ', '.join(
            f'{number} {verdict_label(verdict)}' for verdict, _, number in count_verdicts(results)
        )
        return f'All {len(results)} variants: {counts}.' if results else ''

    @property
    def overlapping(self) -> int:
        """Number of other rows whose intervals overlap with that of the best row."""
        others = (row.cells[ENSEMBLE] for row in self.ranked[1:])
        best = self.cell
        return sum(not (cell.high < best.low or cell.low > best.high) for cell in others)

    @property
    def zeros(self) -> int:
        """Number of rows in which nothing was found, whose value is 0 if higher is better."""
        if self.table.metric.info.higher_is_better is False:
            return 0
        return sum(row.cells[ENSEMBLE].mean == 0 for row in self.ranked)

    @property
    def has_one_seed(self) -> bool:
        """Whether a run has only one finished seed, so that nothing is known of other seeds."""
        return any(row.cells[ENSEMBLE].done == 1 for row in self.ranked)


def build_answer(table: ResultTable, claims: Sequence[ClaimResult]) -> Answer | None:
    """Summarize a measure; None if no run has a value.

    Args:
        table: Results of the measure.
        claims: All claims about it.
    """
    valued = [
        row
        for row in table.rows
        if ENSEMBLE in row.cells and not math.isnan(row.cells[ENSEMBLE].mean)
    ]
    rows = [row for row in valued if row.cells[ENSEMBLE].member == ENSEMBLE] or valued
    if not rows:
        return None
    sign = -1 if table.metric.info.higher_is_better is False else 1
    shown = [result for row in rows for result in row.differences.values()]
    return Answer(
        table,
        sorted(rows, key=lambda row: -sign * row.cells[ENSEMBLE].mean),
        count_verdicts(claims),
        axis_of(shown),
    )


def count_verdicts(claims: Sequence[ClaimResult]) -> list[tuple[str, str, int]]:
    """Return verdict, kind and number of claims for each verdict that occurs."""
    counts = Counter(one.outcome for one in claims)
    return [
        (verdict, kind, counts[verdict]) for verdict, kind in VERDICTS.items() if counts[verdict]
    ]


def axis_of(claims: Sequence[ClaimResult]) -> IntervalAxis:
    """Build the axis that shows all claims with their intervals."""
    return IntervalAxis.of(
        value
        for one in claims
        for value in (one.estimate.value, one.estimate.low, one.estimate.high, *one.simultaneous)
    )
