"""Building of panels: one metric by mode and style, or several metrics by run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from mmkdml.experiments.paper.values import FIDELITY, SINGLE, paper_value
from mmkdml.experiments.report.cells import MEMBERS, TableCell, TablePanel, TableRow
from mmkdml.metric_info import METRIC_INFOS, MetricInfo
from mmkdml.modes import FROM_TEACHER, MODES, STYLES
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.bootstrap import Estimate
from mmkdml.statistics.counts import Variants
from mmkdml.statistics.records import BASELINE, RunRecord, SuiteRecord

Key = tuple[str, str, str]
"""Name of a run, one of its members, and a metric."""


@dataclass(frozen=True)
class Metric:
    """A measure or auxiliary metric in tables.

    Attributes:
        key: Name of the measure, or key of the evaluator without the member.
        members: Members that have it.
        quantity: ``'performance'`` or ``'fidelity'``, to look up the paper's values (see
            :func:`~mmkdml.experiments.paper.values.paper_value`); empty if the paper has none.
    """

    key: str
    members: tuple[str, ...] = tuple(MEMBERS)
    quantity: str = ''

    @property
    def info(self) -> MetricInfo:
        """Title, unit, better direction and number of decimals."""
        return METRIC_INFOS[self.key]

    @property
    def heading(self) -> str:
        """Key with the unit, for columns of different units."""
        return f'{self.key} ({self.info.unit})' if self.info.sign else self.key


@dataclass(frozen=True)
class Grid:
    """Values of a suite, from which panels are built.

    Attributes:
        record: The suite.
        variants: Result of :func:`~mmkdml.statistics.counts.find_variants`.
        values: Values of all finished seeds.
        intervals: Intervals of means; not all values need one.
    """

    record: SuiteRecord
    variants: Variants
    values: Mapping[Key, Sequence[float]]
    intervals: Mapping[Key, Estimate]

    @cached_property
    def _expected(self) -> Counter[str]:
        return Counter(run.name for run in self.record.runs)

    @cached_property
    def _moments(self) -> dict[Key, tuple[float, float]]:
        """Mean and sample standard deviation of all values; NaN if there are too few."""
        by_number: dict[int, list[Key]] = {}
        for key, seeds in self.values.items():
            by_number.setdefault(len(seeds), []).append(key)
        found: dict[Key, tuple[float, float]] = {}
        for number, keys in by_number.items():
            table = np.array([self.values[key] for key in keys], dtype=float)
            means = table.mean(1) if number else np.full(len(keys), np.nan)
            spread = table.std(1, ddof=1) if number > 1 else np.full(len(keys), np.nan)
            found |= dict(zip(keys, zip(means.tolist(), spread.tolist(), strict=True), strict=True))
        return found

    @cached_property
    def other_runs(self) -> list[RunRecord]:
        """One record (of any seed) for each run without a mode and style."""
        known = {name for names in self.variants.values() for name in names.values()}
        return list({run.name: run for run in self.record.runs if run.name not in known}.values())

    def by_style(self, variant: str, metric: Metric) -> TablePanel:
        """Build a panel with a block of rows (members) per mode and a column per style."""
        names = self.variants[variant]
        rows = tuple(
            TableRow(
                mode,
                MEMBERS.get(member, member.capitalize()),
                tuple(
                    self.cell(names.get((mode, style), ''), member, metric, (mode, style, member))
                    for style in STYLES
                ),
            )
            for mode in MODES
            if any(mode == one for one, _ in names)
            and (FROM_TEACHER[mode] or metric.quantity != FIDELITY)
            for member in metric.members
            if FROM_TEACHER[mode] or member != TEACHER
        )
        title = f'{variant}: {metric.key}' if variant else metric.key
        unit = metric.info.unit if metric.info.sign else ''
        return TablePanel(title, STYLES, rows, unit)

    def by_run(
        self, title: str, runs: Iterable[RunRecord], metrics: Mapping[str, Metric], unit: str
    ) -> TablePanel:
        """Build a panel with a row per run and a column per metric; ``metrics`` has the headers.

        Cells have the value of the ensemble, or of the model if the run is a single network.
        """
        rows: dict[str, list[TableRow]] = {}
        for run in runs:
            variant, _, label = run.name.rpartition('/')
            member = PLAIN if run.mode == BASELINE else ENSEMBLE
            cells = tuple(
                self.cell(
                    run.name,
                    metric.members[0] if len(metric.members) == 1 else member,
                    metric,
                    (run.mode, run.style, SINGLE),
                    label,
                )
                for metric in metrics.values()
            )
            rows.setdefault(variant, []).append(TableRow(variant, label, cells))
        return TablePanel(title, tuple(metrics), tuple(chain(*rows.values())), unit)

    def cell(
        self, run: str, member: str, metric: Metric, place: tuple[str, str, str], method: str = ''
    ) -> TableCell:
        """Build a cell; ``place`` (mode, style, member) and ``method`` find the paper's value."""
        mean, std = self._moments.get((run, member, metric.key), (float('nan'), float('nan')))
        interval = self.intervals.get((run, member, metric.key), Estimate())
        paper = None
        if metric.quantity:
            tables, measure = self.record.paper_tables, metric.key.rpartition('/')[2]
            paper = paper_value(tables, *place, measure, method, metric.quantity)
        return TableCell(
            run,
            member,
            metric.key,
            mean=mean,
            std=std,
            done=len(self.values.get((run, member, metric.key), ())),
            expected=self._expected[run],
            low=interval.low,
            high=interval.high,
            paper=paper,
            digits=metric.info.digits,
        )
