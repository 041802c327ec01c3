"""Panels of auxiliary metrics: fidelity, diversity and calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mmkdml.experiments.paper.values import FIDELITY
from mmkdml.experiments.report.cells import TablePanel
from mmkdml.experiments.report.grid import Grid, Key, Metric
from mmkdml.modes import STUDENTS
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, TEACHER
from mmkdml.statistics.records import DONE, SuiteRecord

_LEARNERS = (*STUDENTS, ENSEMBLE)
_TOGETHER = (ALL_STUDENTS,)
AUXILIARY_METRICS = (
    *(
        Metric(f'fidelity/{key}', _LEARNERS, quantity=FIDELITY)
        for key in ('accuracy', 'IoU', 'F1', 'agreement', 'AP50', 'box_agreement', 'KL')
    ),
    Metric('diversity/disagreement', _TOGETHER),
    Metric('diversity/error_correlation', _TOGETHER),
    Metric('calibration/ECE', (TEACHER, *_LEARNERS)),
    Metric('calibration/ECE_near_foreground', (TEACHER, *_LEARNERS)),
    Metric('calibration/D-ECE', (TEACHER, *_LEARNERS)),
)
NOTES = {
    'fidelity': "Fidelity: the teacher's predictions as ground truth; KL(teacher || student).",
    'diversity': (
        'Diversity: share of predictions in which two students differ; correlation of their errors.'
    ),
    'calibration': (
        'Calibration: expected calibration error (ECE) of all predictions, and of the pixels near '
        'the true foreground; for detection of the predicted boxes (D-ECE).'
    ),
}


def auxiliary_values(record: SuiteRecord, checkpoint: str) -> dict[Key, list[float]]:
    """Collect the auxiliary metrics of all finished seeds by run, member and metric."""
    values: dict[Key, list[float]] = defaultdict(list)
    keys = {metric.key for metric in AUXILIARY_METRICS}
    for run in record.runs:
        if run.state == DONE and checkpoint in run.measured:
            for key, value in run.measured[checkpoint].metrics.items():
                member, _, rest = key.partition('/')
                if rest in keys:
                    values[run.name, member, rest].append(float(value))
    return dict(values)


def auxiliary_panels(grid: Grid) -> Iterator[TablePanel]:
    """Build a panel for each variant and metric, as in the paper's Tables 11 and 12.

    All other runs share one panel with a row for each run.
    """
    measured = {(run, key) for run, _, key in grid.values}
    for variant, names in grid.variants.items():
        for metric in AUXILIARY_METRICS:
            if any((name, metric.key) in measured for name in names.values()):
                yield grid.by_style(variant, metric)
    others = grid.other_runs
    metrics = {
        metric.heading: metric
        for metric in AUXILIARY_METRICS
        if any((run.name, metric.key) in measured for run in others)
    }
    if metrics:
        yield grid.by_run('Auxiliary metrics', others, metrics, unit='')
