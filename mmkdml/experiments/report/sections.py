"""What a report shows of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from mmkdml.experiments.paper.claims import (
    FAMILIES,
    HOLDS,
    OPPOSITE,
    UNDECIDED,
    ClaimResult,
    evaluate_claims,
)
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
from mmkdml.experiments.report.tables import SHOWN, build_table
from mmkdml.names import ENSEMBLE, TEACHER
from mmkdml.statistics.records import CHECKPOINTS, DONE, STATES, RunRecord, SuiteRecord

LOSS = 'loss'
_CURVES = (
    ', by epoch: mean over the seeds that are done, in a band from the lowest to the highest of '
    'them. Each mode has a panel.'
)


@dataclass(frozen=True)
class Picture:
    """A figure with what it says in words."""

    uri: str
    text: str


@dataclass(frozen=True)
class Verdicts:
    """The claims about one measure, asked of one checkpoint.

    Attributes:
        title: Measure and checkpoint.
        summary: How many hold.
        families: What each family is about, its summary and its claims.
        picture: Their forest plot.
    """

    title: str
    summary: str
    families: Sequence[tuple[str, str, Sequence[ClaimResult]]]
    picture: Picture


@dataclass(frozen=True)
class Size:
    """A member, or the students together.

    Attributes:
        name: Of the member.
        parameters: Their number.
        flops: For one image.
        fewer_parameters: How far that is from the teacher, ``'12.0 % fewer'``; empty for the
            teacher itself, and where there is none.
        fewer_flops: The same of the FLOPs.
    """

    name: str
    parameters: int
    flops: int
    fewer_parameters: str = ''
    fewer_flops: str = ''


@dataclass(frozen=True)
class Chapter:
    """What the report shows of one suite.

    Attributes:
        anchor: Where it begins.
        record: The suite.
        file: The suite's file.
        states: Number of runs by state, those that occur.
        by_name: The seeds of each run.
        tables: The results with each checkpoint.
        verdicts: The claims about each measure, with each checkpoint.
        curves: Learning curves.
        pictures: What tests and tools of analysis drew.
        sizes: Input size and members' sizes, and the runs that have them.
        splits: Part to counts, and the runs that have them.
        versions: Package to version, and the runs that have them.
    """

    anchor: str
    record: SuiteRecord
    file: str
    states: Mapping[str, int]
    by_name: Mapping[str, Sequence[RunRecord]]
    tables: Sequence[Table]
    verdicts: Sequence[Verdicts]
    curves: Sequence[Picture]
    pictures: Sequence[Picture]
    sizes: Sequence[tuple[tuple[Sequence[int], Sequence[Size]], str]]
    splits: Sequence[tuple[Mapping[str, Mapping[str, int]], str]]
    versions: Sequence[tuple[Mapping[str, str], str]]

    @property
    def anchors(self) -> dict[str, str]:
        """Where each run is told of, by its name."""
        return {name: f'{self.anchor}-run-{place}' for place, name in enumerate(self.by_name)}


def chapter_of(record: SuiteRecord, anchor: str, file: str, resamples: int) -> Chapter:
    """Everything about one suite.

    Args:
        record: The suite.
        anchor: Where the chapter begins.
        file: The suite's file, for the commands that repeat it.
        resamples: Of the bootstrap.

    Raises:
        ValueError: See :func:`~mmkdml.experiments.report.tables.build_table`.
    """
    count = Counter(run.state for run in record.runs)
    by_name: dict[str, list[RunRecord]] = {}
    for run in record.runs:
        by_name.setdefault(run.name, []).append(run)
    return Chapter(
        anchor,
        record,
        file,
        {state: count[state] for state in STATES if count[state]},
        by_name,
        [build_table(record, checkpoint, resamples) for checkpoint in CHECKPOINTS],
        list(_verdicts(record, resamples)),
        list(_curves(record, by_name)),
        list(_pictures(record, by_name)),
        [
            ((size, _sizes(members)), names)
            for (size, members), names in _alike(record, 'input_size', 'members')
        ],
        [(splits, names) for (splits,), names in _alike(record, 'splits')],
        [(versions, names) for (versions,), names in _alike(record, 'versions')],
    )


def _verdicts(record: SuiteRecord, resamples: int) -> Iterator[Verdicts]:
    for checkpoint in CHECKPOINTS:
        for measure in record.measures:
            results = evaluate_claims(record, measure, checkpoint, resamples)
            if not results:
                continue
            title = f'{measure}, {SHOWN[checkpoint]}'
            families = []
            for family, about in FAMILIES.items():
                members = [result for result in results if result.family == family]
                if members:
                    families.append((about, _summary(members), members))
            summary = _summary(results)
            text = f'{title}: differences with their intervals. {summary}'
            yield Verdicts(title, summary, families, _picture(draw_claims(results), text))


def _summary(results: Sequence[ClaimResult]) -> str:
    count = Counter(result.verdict for result in results)
    rest = len(results) - count[HOLDS] - count[OPPOSITE] - count[UNDECIDED]
    return (
        f'{count[HOLDS]} of {len(results)} claims hold. Contradicted (the opposite holds): '
        f'{count[OPPOSITE]}; undecided: {count[UNDECIDED]}; not computable: {rest}.'
    )


def _curves(record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]]) -> Iterator[Picture]:
    for keys in validation_keys(record):
        metric = keys[0].partition('/')[2]
        yield _picture(
            draw_curves(record, keys, f'{metric} (%)', one_scale=True),
            f'{metric} on the validation part, in percent{_CURVES}',
        )
    if any((run.curves['key'] == LOSS).any() for run in record.runs):
        yield _picture(
            draw_curves(record, [LOSS], 'training loss', one_scale=False),
            f'Training loss, the sum over the members{_CURVES}',
        )
    balanced = {name: runs for name, runs in by_name.items() if balance_keys(runs)}
    if balanced:
        yield _picture(
            draw_balance(balanced),
            "Norm of each transfer's gradient on the learner's shared parameters against that of "
            'its supervised losses, by epoch: mean over the seeds. Each run has a panel.',
        )


def _pictures(record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]]) -> Iterator[Picture]:
    """Of one seed of each run, or the file would hold hundreds."""
    for name, path in record.pictures.items():
        yield Picture(png_data_uri(path), f'Of several runs: {name}')
    for runs in by_name.values():
        for run in [run for run in runs if run.pictures][:1]:
            for name, path in run.pictures.items():
                yield Picture(png_data_uri(path), f'{run.name}, seed {run.seed}: {name}')


def _picture(figure: Figure, text: str) -> Picture:
    return Picture(to_data_uri(figure), text)


def _alike(record: SuiteRecord, *facts: str) -> list[tuple[tuple[Any, ...], str]]:
    """The values of facts that occur, each with the names of the runs that have them."""
    done = [run for run in record.runs if run.state == DONE]
    values: list[tuple[Any, ...]] = []
    names: list[dict[str, None]] = []
    for run in done:
        value = tuple(run.metadata[fact] for fact in facts)
        if value not in values:
            values.append(value)
            names.append({})
        names[values.index(value)][run.name] = None
    return [
        (value, ', '.join(of) if len(values) > 1 else 'all runs')
        for value, of in zip(values, names, strict=True)
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
