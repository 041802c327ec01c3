"""Results of all runs side by side: a table per metric and checkpoint, with the same columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mmkdml.experiments.paper.claims import ClaimResult, evaluate_claims
from mmkdml.experiments.paper.values import PERFORMANCE, SINGLE
from mmkdml.experiments.report.auxiliary_metrics import AUXILIARY_METRICS
from mmkdml.experiments.report.cells import TableCell
from mmkdml.experiments.report.grid import Grid, Metric
from mmkdml.experiments.report.labels import member_label
from mmkdml.experiments.report.tables import build_grid
from mmkdml.modes import MODES, STUDENTS
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.counts import Counts, Variants, count_cases, groups_of
from mmkdml.statistics.records import RunRecord, SuiteRecord

# A single network is in the column of the ensembles, to be compared with them.
_COLUMNS = (ENSEMBLE, TEACHER, *STUDENTS, ALL_STUDENTS)
#: Families of claims that have a column, with its title.
DIFFERENCES = {'teacher': 'Ensemble − teacher', 'student': 'Ensemble − better student'}


@dataclass(frozen=True)
class Evaluation:
    """Everything that is computed for one checkpoint.

    Attributes:
        checkpoint: ``'best'`` or ``'last'``.
        counts: Counts of all runs.
        grid: Values of all runs.
        claims: Results of all claims by measure.
    """

    checkpoint: str
    counts: Counts
    grid: Grid
    claims: Mapping[str, Sequence[ClaimResult]]

    @cached_property
    def cases(self) -> dict[str, frozenset[tuple[str, str]]]:
        """The tested cases by name of the run, those of its first seed."""
        found: dict[str, frozenset[tuple[str, str]]] = {}
        for (run, _), by_seed in self.counts.by_entry.items():
            found.setdefault(run, next(iter(by_seed.values())).cases)
        return found

    @classmethod
    def of(
        cls, record: SuiteRecord, checkpoint: str, variants: Variants, resamples: int
    ) -> Evaluation:
        """Evaluate a suite; see :func:`~mmkdml.experiments.report.tables.build_table`."""
        counts = count_cases(record, checkpoint)
        grid = build_grid(record, checkpoint, resamples, counts=counts, variants=variants)
        claims = {
            measure: evaluate_claims(
                record, measure, checkpoint, resamples, counts=counts, variants=variants
            )
            for measure in record.measures
        }
        return cls(checkpoint, counts, grid, claims)


@dataclass(frozen=True)
class ResultRow:
    """One run in a result table.

    Attributes:
        run: Record of any seed.
        images: Number of tested images.
        groups: Number of groups of images (patients, lesions).
        cells: Values by member; members without values are left out. The value of a single network
            is that of the ensemble.
        differences: Test results by family of :data:`DIFFERENCES`.
    """

    run: RunRecord
    images: int
    groups: int
    cells: Mapping[str, TableCell]
    differences: Mapping[str, ClaimResult]

    @property
    def any_cell(self) -> TableCell:
        """A cell, for the number of seeds."""
        return next(iter(self.cells.values()))


@dataclass(frozen=True)
class ResultTable:
    """Values of all runs for one metric and checkpoint.

    Attributes:
        metric: The metric.
        checkpoint: ``'best'`` or ``'last'``.
        rows: Runs with values.
    """

    metric: Metric
    checkpoint: str
    rows: Sequence[ResultRow]

    @property
    def title(self) -> str:
        """Name of the metric with its unit."""
        return self.metric.info.label

    @cached_property
    def columns(self) -> list[tuple[str, str, bool]]:
        """Name and title of each member with values, and whether the paper has some."""
        titles = {name: member_label(name) for name in _COLUMNS}
        if any(row.cells[ENSEMBLE].member == PLAIN for row in self._with(ENSEMBLE)):
            titles[ENSEMBLE] = 'Ensemble or single network'
        return [
            (name, titles[name], any(row.cells[name].paper for row in self._with(name)))
            for name in _COLUMNS
            if self._with(name)
        ]

    @cached_property
    def differences(self) -> dict[str, str]:
        """Titles of the columns with differences by family of claims."""
        return {
            family: title
            for family, title in DIFFERENCES.items()
            if any(family in row.differences for row in self.rows)
        }

    @property
    def has_cases(self) -> bool:
        """Whether the numbers of images are known."""
        return any(row.images for row in self.rows)

    def is_best(self, row: ResultRow, member: str) -> bool:
        """Return whether a member has its best value in this row."""
        return row.cells[member].mean == self._best.get(member)

    @cached_property
    def _best(self) -> dict[str, float]:
        """Best value by member; none if all values are equal, or no value is better."""
        found: dict[str, float] = {}
        best = min if self.metric.info.higher_is_better is False else max
        for member in _COLUMNS if self.metric.quantity == PERFORMANCE else ():
            means = (one.cells[member].mean for one in self._with(member))
            known = [mean for mean in means if not math.isnan(mean)]
            if known and max(known) > min(known):
                found[member] = best(known)
        return found

    def _with(self, member: str) -> list[ResultRow]:
        return [row for row in self.rows if member in row.cells]


def build_results(evaluation: Evaluation) -> Iterator[ResultTable]:
    """Build the tables of all metrics that were measured with one checkpoint."""
    measures = evaluation.grid.record.measures
    for metric in (*(Metric(name, quantity=PERFORMANCE) for name in measures), *AUXILIARY_METRICS):
        rows = list(_rows(evaluation, metric))
        if rows:
            yield ResultTable(metric, evaluation.checkpoint, rows)


def _rows(evaluation: Evaluation, metric: Metric) -> Iterator[ResultRow]:
    grid = evaluation.grid
    differences: dict[str, dict[str, ClaimResult]] = {}
    for claim in evaluation.claims.get(metric.key, ()):
        if claim.family in DIFFERENCES:
            differences.setdefault(claim.contrast.entry[0], {})[claim.family] = claim
    for run in {run.name: run for run in grid.record.runs}.values():
        label = run.name.rpartition('/')[2]
        cells = {}
        for member in (*_COLUMNS, PLAIN):
            if (run.name, member, metric.key) in grid.values:
                is_variant = run.mode in MODES
                place = (run.mode, run.style, member if is_variant else SINGLE)
                cells[ENSEMBLE if member == PLAIN else member] = grid.cell(
                    run.name, member, metric, place, '' if is_variant else label
                )
        if not cells:
            continue
        cases = evaluation.cases.get(run.name, frozenset())
        yield ResultRow(
            run, len(cases), len(groups_of(cases)), cells, differences.get(run.name, {})
        )
