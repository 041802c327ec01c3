"""Contents of the HTML report: one section per suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean
from typing import Any

from markupsafe import Markup

from mmkdml.experiments.paper.claims import FAMILIES, ClaimResult
from mmkdml.experiments.report.answer import Answer, axis_of, build_answer, count_verdicts
from mmkdml.experiments.report.cases import HardCases, Thumbnail, build_thumbnails, find_hard_cases
from mmkdml.experiments.report.curve_charts import Chart, chart_curves
from mmkdml.experiments.report.figures import (
    balance_keys,
    draw_balance,
    draw_curves,
    validation_keys,
)
from mmkdml.experiments.report.labels import metric_label
from mmkdml.experiments.report.results import Evaluation, ResultTable, build_results
from mmkdml.experiments.report.settings import Settings, collect_settings
from mmkdml.experiments.report.tables import build_panels, explain
from mmkdml.figures import svg_text
from mmkdml.html import IntervalAxis, inline_svg
from mmkdml.metric_info import METRIC_INFOS, MetricInfo, metric_info
from mmkdml.names import ENSEMBLE, TEACHER
from mmkdml.statistics.counts import find_variants
from mmkdml.statistics.measures import DETECTION, MEASURES
from mmkdml.statistics.records import CHECKPOINTS, DONE, STATES, RunRecord, SuiteRecord

LOSS = 'loss'
#: Largest number of runs, without seeds, whose tables are all readable without scripts.
LARGE = 60


@dataclass(frozen=True)
class Curve:
    """Learning curves of all runs.

    Attributes:
        title: What is drawn.
        svg: The plot.
        text: Explanation.
    """

    title: str
    svg: Markup
    text: str

    @property
    def option(self) -> tuple[str, str]:
        """Value and text of the switch between curves."""
        return self.title, self.title


@dataclass(frozen=True)
class ClaimTable:
    """Test results of all claims about one measure with one checkpoint.

    Attributes:
        measure: The measure.
        checkpoint: ``'best'`` or ``'last'``.
        verdicts: Verdict, kind and number of claims.
        families: Key and title of each family, with its claims.
        axis: Axis of all intervals.
    """

    measure: str
    checkpoint: str
    verdicts: Sequence[tuple[str, str, int]]
    families: Sequence[tuple[str, str, Sequence[ClaimResult]]]
    axis: IntervalAxis

    @property
    def title(self) -> str:
        """Name of the measure."""
        return metric_label(self.measure)

    @property
    def info(self) -> MetricInfo:
        """Unit and number of decimals."""
        return METRIC_INFOS[self.measure]

    @property
    def of_detection(self) -> bool:
        """True for measures of detection, about which the paper claims nothing."""
        return DETECTION in MEASURES[self.measure].tasks


@dataclass(frozen=True)
class Size:
    """Size of a member, or of all students together.

    Attributes:
        name: Name of the member.
        parameters: Number of parameters.
        flops: FLOPs for one image.
        fewer_parameters: Difference from the teacher, e.g. ``'12.0 % fewer'``; empty for the
            teacher itself and if there is no teacher.
        fewer_flops: Difference of the FLOPs from the teacher's.
    """

    name: str
    parameters: int
    flops: int
    fewer_parameters: str = ''
    fewer_flops: str = ''


@dataclass(frozen=True)
class SuiteSection:
    """Contents of the section about one suite.

    Attributes:
        anchor: HTML id of the section.
        record: The suite.
        file: Suite file, as written in the commands that repeat the suite.
        states: Number of runs by state, without states that have no runs.
        by_name: Seeds of each run.
        answers: Summary of each measure that has results.
        results: Results of each metric with each checkpoint.
        notes: Explanations of the results.
        claims: Claims about each measure with each checkpoint.
        curves: Learning curves.
        thumbnails: Figures of tests and analysis tools.
        left_out: Number of figures that are too large for the report.
        hard_cases: Groups of images that are hard for all runs.
        sizes: Input size and sizes of the members, with the names of the runs they apply to.
        splits: Counts by data split, with the names of the runs they apply to.
        versions: Package versions, with the names of the runs they apply to.
        settings: Settings of all runs.
    """

    anchor: str
    record: SuiteRecord
    file: str
    states: Mapping[str, int]
    by_name: Mapping[str, Sequence[RunRecord]]
    answers: Sequence[Answer]
    results: Sequence[ResultTable]
    notes: Sequence[str]
    claims: Sequence[ClaimTable]
    curves: Sequence[Curve] | Sequence[Chart]
    thumbnails: Sequence[Thumbnail]
    left_out: int
    hard_cases: HardCases | None
    sizes: Sequence[tuple[tuple[Sequence[int], Sequence[Size]], str]]
    splits: Sequence[tuple[Mapping[str, Mapping[str, int]], str]]
    versions: Sequence[tuple[Mapping[str, str], str]]
    settings: Settings | None

    @property
    def is_large(self) -> bool:
        """Return whether the tables of the suite are compressed."""
        return len(self.by_name) > LARGE

    @property
    def anchors(self) -> dict[str, str]:
        """HTML id of each run by name."""
        return {name: f'{self.anchor}-run-{place}' for place, name in enumerate(self.by_name)}

    @property
    def seconds(self) -> dict[str, float]:
        """Mean time of training and testing by name of finished runs."""
        return {
            name: fmean(run.metadata['seconds'] for run in done)
            for name, runs in self.by_name.items()
            if (done := [run for run in runs if run.state == DONE])
        }


def build_section(record: SuiteRecord, anchor: str, file: str, resamples: int = 0) -> SuiteSection:
    """Build the section of one suite, see :class:`SuiteSection` for the arguments.

    Raises:
        ValueError: See :func:`~mmkdml.experiments.report.tables.build_table`.
    """
    states = Counter(run.state for run in record.runs)
    by_name: dict[str, list[RunRecord]] = {}
    for run in record.runs:
        by_name.setdefault(run.name, []).append(run)
    variants = find_variants(record)
    evaluations = [Evaluation.of(record, one, variants, resamples) for one in CHECKPOINTS]
    results = [table for one in evaluations for table in build_results(one)]
    first = evaluations[0]
    answers = (
        build_answer(table, first.claims[table.metric.key])
        for table in results
        if table.checkpoint == first.checkpoint and table.metric.key in first.claims
    )
    thumbnails, left_out = build_thumbnails(record, by_name)
    is_large = len(by_name) > LARGE
    curves: Sequence[Curve] | Sequence[Chart]
    if is_large:
        curves = list(chart_curves(record, by_name))
    else:
        curves = list(_curves(record, by_name, anchor))
    return SuiteSection(
        anchor,
        record,
        file,
        {state: states[state] for state in STATES if states[state]},
        by_name,
        [answer for answer in answers if answer],
        results,
        list(dict.fromkeys(chain.from_iterable(_notes(one) for one in evaluations))),
        [table for one in evaluations for table in _claim_tables(one)],
        curves,
        thumbnails,
        left_out,
        find_hard_cases(first),
        [
            ((size, _sizes(members)), names)
            for (size, members), names in _group_runs(record, 'input_size', 'members')
        ],
        [(splits, names) for (splits,), names in _group_runs(record, 'splits')],
        [(versions, names) for (versions,), names in _group_runs(record, 'versions')],
        collect_settings(record.runs, first_seeds=is_large),
    )


def _notes(evaluation: Evaluation) -> Iterator[str]:
    grid = evaluation.grid
    yield from explain(grid.record, evaluation.checkpoint, build_panels(grid), 'Paper')


def _claim_tables(evaluation: Evaluation) -> Iterator[ClaimTable]:
    for measure, results in evaluation.claims.items():
        families = [
            (family, title, members)
            for family, title in FAMILIES.items()
            if (members := [result for result in results if result.family == family])
        ]
        if families:
            verdicts = count_verdicts(results)
            yield ClaimTable(measure, evaluation.checkpoint, verdicts, families, axis_of(results))


def _curves(
    record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]], anchor: str
) -> Iterator[Curve]:
    over_seeds = (
        'mean over the finished seeds, with a band from their minimum to their maximum. '
        'One panel per mode.'
    )
    drawn = []
    for keys in validation_keys(record):
        key = keys[0].partition('/')[2]
        info, name = metric_info(key), metric_label(key)
        figure = draw_curves(record, keys, info.label if info else name, same_scale=True)
        drawn.append((f'{name} (validation)', figure, f'By epoch: {over_seeds}'))
    if any(LOSS in run.curve_keys for run in record.runs):
        figure = draw_curves(record, [LOSS], 'training loss', same_scale=False)
        drawn.append(('Training loss', figure, f'Sum over members, by epoch: {over_seeds}'))
    balanced = {name: runs for name, runs in by_name.items() if balance_keys(runs)}
    if balanced:
        text = (
            "Gradient norm of each transfer on the learner's shared parameters, relative to that "
            'of its supervised losses, by epoch: mean over the seeds. One panel per run.'
        )
        drawn.append(('Gradient balance', draw_balance(balanced), text))
    for place, (title, figure, text) in enumerate(drawn):
        svg = inline_svg(svg_text(figure), f'{anchor}-curve-{place}', title)
        yield Curve(title, svg, text)


def _group_runs(record: SuiteRecord, *keys: str) -> list[tuple[tuple[Any, ...], str]]:
    """Return the distinct values of run metadata, each with the names of its runs."""
    done = [run for run in record.runs if run.state == DONE]
    values: list[tuple[Any, ...]] = []
    names: list[dict[str, None]] = []
    for run in done:
        value = tuple(run.metadata[key] for key in keys)
        if value not in values:
            values.append(value)
            names.append({})
        names[values.index(value)][run.name] = None
    return [
        (value, _listed(group) if len(values) > 1 else 'all runs')
        for value, group in zip(values, names, strict=True)
    ]


def _listed(names: Mapping[str, None]) -> str:
    more = len(names) - LARGE
    return ', '.join(list(names)[:LARGE]) + (f' and {more} more' if more > 0 else '')


def _sizes(members: Mapping[str, Mapping[str, int]]) -> list[Size]:
    sizes = [Size(name, one['parameters'], one['flops']) for name, one in members.items()]
    students = [size for size in sizes if size.name != TEACHER]
    if len(students) > 1:
        parameters = sum(size.parameters for size in students)
        sizes.append(Size(ENSEMBLE, parameters, sum(size.flops for size in students)))
    teacher = next((size for size in sizes if size.name == TEACHER), None)
    return [
        size
        if teacher is None or size is teacher
        else replace(
            size,
            fewer_parameters=_fewer(size.parameters, teacher.parameters),
            fewer_flops=_fewer(size.flops, teacher.flops),
        )
        for size in sizes
    ]


def _fewer(number: int, than: int) -> str:
    return f'{100 * abs(1 - number / than):.1f} % {"fewer" if number <= than else "more"}'
