"""What was measured beside quality, in tables: fidelity, diversity and calibration."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mmkdml.experiments.paper.values import FIDELITY, PaperValue, paper_value
from mmkdml.experiments.report.cells import MEMBERS, Cell, Panel, Row
from mmkdml.models.transfers import FROM_TEACHER, MODES, STUDENTS, STYLES
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.counts import variants
from mmkdml.statistics.records import BASELINE, DONE, SuiteRecord

_STUDENTS = 'students'  # all of them together


@dataclass(frozen=True)
class Beside:
    """A value of the evaluators that is no measure of quality.

    Attributes:
        key: Behind the name in the evaluator's keys.
        names: Who has it.
        unit: Of the value; empty for a pure number.
        digits: Behind the point.
    """

    key: str
    names: tuple[str, ...]
    unit: str = 'percent'
    digits: int = 2

    @property
    def title(self) -> str:
        """Key and unit."""
        return f'{self.key} ({self.unit})' if self.unit else self.key


_LEARNERS = (*STUDENTS, ENSEMBLE)
BESIDE = (
    *(Beside(f'fidelity/{key}', _LEARNERS) for key in ('accuracy', 'IoU', 'F1', 'agreement')),
    Beside('fidelity/KL', _LEARNERS, 'nats', 4),
    Beside('diversity/disagreement', (_STUDENTS,)),
    Beside('diversity/error_correlation', (_STUDENTS,), '', 3),
    Beside('calibration/ECE', (TEACHER, *_LEARNERS)),
)
NOTES = {
    'fidelity': "Fidelity: the teacher's predictions stand for the truth; KL(teacher || student).",
    'diversity': 'Diversity: share of answers in which two students differ; correlation of errors.',
    'calibration': 'Calibration: expected calibration error.',
}


def beside_panels(record: SuiteRecord, checkpoint: str) -> Iterator[Panel]:
    """The values of :data:`BESIDE` that any run has.

    In each variant of the suite modes by styles for each value, as the paper's Tables 11 and 12
    have it; then the runs of no known mode and style by name, as their ensemble, or the model.

    Args:
        record: The suite.
        checkpoint: ``'best'`` or ``'last'``.
    """
    values = _values(record, checkpoint)
    expected = Counter(run.name for run in record.runs)

    def cell_of(run: str, member: str, one: Beside, paper: PaperValue | None = None) -> Cell:
        seeds = pd.Series(values.get((run, member, one.key), []), dtype=float)
        return Cell(
            run,
            member,
            one.key,
            mean=float(seeds.mean(skipna=False)),
            std=float(seeds.std(skipna=False)),
            done=len(seeds),
            expected=expected[run],
            paper=paper,
            digits=one.digits,
        )

    grids = variants(record)
    in_grid = {name for names in grids.values() for name in names.values()}
    for variant, names in grids.items():
        for one in BESIDE:
            if any(run in names.values() and key == one.key for run, _, key in values):
                yield _grid(record.paper_tables, variant, names, one, cell_of)
    others = {run.name: run.mode for run in record.runs if run.name not in in_grid}
    known = [one for one in BESIDE if any(k == one.key and run in others for run, _, k in values)]
    if known:
        rows = tuple(
            Row(variant, label, tuple(cell_of(name, _of_run(mode, one), one) for one in known))
            for name, mode in others.items()
            for variant, _, label in (name.rpartition('/'),)
        )
        yield Panel('Beside quality', tuple(one.title for one in known), rows, unit='')


def _values(record: SuiteRecord, checkpoint: str) -> dict[tuple[str, str, str], list[float]]:
    """By run, name and key those of the seeds."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    keys = {one.key for one in BESIDE}
    for run in record.runs:
        if run.state == DONE and checkpoint in run.measured:
            for key, value in run.measured[checkpoint].metrics.items():
                name, _, rest = key.partition('/')
                if rest in keys:
                    values[run.name, name, rest].append(float(value))
    return values


def _grid(
    tables: Sequence[str],
    variant: str,
    names: Mapping[tuple[str, str], str],
    one: Beside,
    cell_of: Callable[..., Cell],
) -> Panel:
    about, _, measure = one.key.rpartition('/')
    needs_teacher = about == FIDELITY
    rows = tuple(
        Row(
            mode,
            MEMBERS.get(member, member.capitalize()),
            tuple(
                cell_of(
                    names.get((mode, style), ''),
                    member,
                    one,
                    paper_value(tables, mode, style, member, measure, quantity=FIDELITY)
                    if needs_teacher
                    else None,
                )
                for style in STYLES
            ),
        )
        for mode in MODES
        if any(mode == of for of, _ in names) and (FROM_TEACHER[mode] or not needs_teacher)
        for member in one.names
        if FROM_TEACHER[mode] or member != TEACHER
    )
    return Panel(f'{variant}: {one.key}' if variant else one.key, STYLES, rows, one.unit)


def _of_run(mode: str, one: Beside) -> str:
    """Whose value a run of no known mode shows."""
    if one.names == (_STUDENTS,):
        return _STUDENTS
    return PLAIN if mode == BASELINE else ENSEMBLE
