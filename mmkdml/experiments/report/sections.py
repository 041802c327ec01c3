"""Contents of the HTML report: one section per suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from mmkdml.experiments.paper.claims import FAMILIES, ClaimResult, evaluate_claims, summarize_claims
from mmkdml.experiments.report.cells import Table
from mmkdml.experiments.report.figures import (
    balance_keys,
    draw_balance,
    draw_claims,
    draw_curves,
    png_data_uri,
    to_data_uri,
    validation_keys,
)
from mmkdml.experiments.report.tables import CHECKPOINT_TITLES, build_table
from mmkdml.names import ENSEMBLE, TEACHER
from mmkdml.statistics.bootstrap import RESAMPLES
from mmkdml.statistics.counts import Counts, Variants, count_cases, find_variants
from mmkdml.statistics.records import CHECKPOINTS, DONE, STATES, RunRecord, SuiteRecord

LOSS = 'loss'
_CURVES = (
    ' by epoch: mean over the finished seeds, with a band from their minimum to their maximum. '
    'One panel per mode.'
)


@dataclass(frozen=True)
class Picture:
    """An image with its caption.

    Attributes:
        uri: The image as a ``data:`` URI.
        text: Caption, also used as alternative text.
    """

    uri: str
    text: str


@dataclass(frozen=True)
class MeasureClaims:
    """Test results of the claims about one measure, with one checkpoint.

    Attributes:
        title: Measure and checkpoint.
        summary: Number of claims by verdict.
        families: Title, summary and claims of each family.
        picture: Forest plot.
    """

    title: str
    summary: str
    families: Sequence[tuple[str, str, Sequence[ClaimResult]]]
    picture: Picture


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
        tables: Results, one table per checkpoint.
        claims: Claims about each measure, for each checkpoint.
        curves: Learning curves.
        pictures: Pictures of tests and analysis tools.
        sizes: Input size and sizes of the members, with the names of the runs they apply to.
        splits: Counts by data split, with the names of the runs they apply to.
        versions: Package versions, with the names of the runs they apply to.
    """

    anchor: str
    record: SuiteRecord
    file: str
    states: Mapping[str, int]
    by_name: Mapping[str, Sequence[RunRecord]]
    tables: Sequence[Table]
    claims: Sequence[MeasureClaims]
    curves: Sequence[Picture]
    pictures: Sequence[Picture]
    sizes: Sequence[tuple[tuple[Sequence[int], Sequence[Size]], str]]
    splits: Sequence[tuple[Mapping[str, Mapping[str, int]], str]]
    versions: Sequence[tuple[Mapping[str, str], str]]

    @property
    def anchors(self) -> dict[str, str]:
        """HTML id of each run by name."""
        return {name: f'{self.anchor}-run-{place}' for place, name in enumerate(self.by_name)}


def build_section(
    record: SuiteRecord, anchor: str, file: str, resamples: int = RESAMPLES
) -> SuiteSection:
    """Build the section of one suite, see :class:`SuiteSection` for the arguments.

    Raises:
        ValueError: See :func:`~mmkdml.experiments.report.tables.build_table`.
    """
    states = Counter(run.state for run in record.runs)
    by_name: dict[str, list[RunRecord]] = {}
    for run in record.runs:
        by_name.setdefault(run.name, []).append(run)
    variants = find_variants(record)
    counts = {checkpoint: count_cases(record, checkpoint) for checkpoint in CHECKPOINTS}
    return SuiteSection(
        anchor,
        record,
        file,
        {state: states[state] for state in STATES if states[state]},
        by_name,
        [
            build_table(record, checkpoint, resamples, counts=one, variants=variants)
            for checkpoint, one in counts.items()
        ],
        list(_claims(record, counts, variants, resamples)),
        list(_curves(record, by_name)),
        list(_pictures(record, by_name)),
        [
            ((size, _sizes(members)), names)
            for (size, members), names in _group_runs(record, 'input_size', 'members')
        ],
        [(splits, names) for (splits,), names in _group_runs(record, 'splits')],
        [(versions, names) for (versions,), names in _group_runs(record, 'versions')],
    )


def _claims(
    record: SuiteRecord, counts: Mapping[str, Counts], variants: Variants, resamples: int
) -> Iterator[MeasureClaims]:
    for checkpoint, counted in counts.items():
        for measure in record.measures:
            results = evaluate_claims(
                record, measure, checkpoint, resamples, counts=counted, variants=variants
            )
            if not results:
                continue
            title = f'{measure}, {CHECKPOINT_TITLES[checkpoint]}'
            families = []
            for family, about in FAMILIES.items():
                members = [result for result in results if result.family == family]
                if members:
                    families.append((about, summarize_claims(members), members))
            summary = summarize_claims(results)
            text = f'{title}: differences with their intervals. {summary}'
            yield MeasureClaims(title, summary, families, _picture(draw_claims(results), text))


def _curves(record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]]) -> Iterator[Picture]:
    for keys in validation_keys(record):
        metric = keys[0].partition('/')[2]
        yield _picture(
            draw_curves(record, keys, f'{metric} (%)', same_scale=True),
            f'{metric} on the validation set in percent,{_CURVES}',
        )
    if any((run.curves['key'] == LOSS).any() for run in record.runs):
        yield _picture(
            draw_curves(record, [LOSS], 'training loss', same_scale=False),
            f'Training loss, summed over members,{_CURVES}',
        )
    balanced = {name: runs for name, runs in by_name.items() if balance_keys(runs)}
    if balanced:
        yield _picture(
            draw_balance(balanced),
            "Gradient norm of each transfer on the learner's shared parameters, relative to that "
            'of its supervised losses, by epoch: mean over the seeds. One panel per run.',
        )


def _pictures(record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]]) -> Iterator[Picture]:
    """Load the pictures of one seed per run; all seeds would make the file huge."""
    for name, path in record.pictures.items():
        yield Picture(png_data_uri(path), f'Several runs: {name}')
    for runs in by_name.values():
        for run in [run for run in runs if run.pictures][:1]:
            for name, path in run.pictures.items():
                yield Picture(png_data_uri(path), f'{run.name}, seed {run.seed}: {name}')


def _picture(figure: Figure, text: str) -> Picture:
    return Picture(to_data_uri(figure), text)


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
        (value, ', '.join(group) if len(values) > 1 else 'all runs')
        for value, group in zip(values, names, strict=True)
    ]


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
