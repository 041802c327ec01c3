"""Measures computed from case tables, for any resample of groups of cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count as integers
from itertools import takewhile

import numpy as np
import pandas as pd

from mmkdml.metric_info import METRIC_INFOS, MetricInfo
from mmkdml.names import (
    CASE_VALUES,
    CLASSIFICATION_COLUMNS,
    DETECTION_COLUMNS,
    MULTI_LABEL_COLUMNS,
    SCORE,
    SEGMENTATION_COLUMNS,
)
from mmkdml.statistics.detections import Detections
from mmkdml.statistics.ranking import RANKED, Scored, Sums

CLASSIFICATION, SEGMENTATION, DETECTION = 'classification', 'segmentation', 'detection'
MULTI_LABEL = 'multi-label classification'
_MAX_CLASSES = 1 << 16  # keeps the arrays of counts small
#: Columns of the case tables of each task. Those of multi-label classification come first, because
#: they include those of classification.
COLUMNS = {
    MULTI_LABEL: MULTI_LABEL_COLUMNS,
    CLASSIFICATION: CLASSIFICATION_COLUMNS,
    SEGMENTATION: SEGMENTATION_COLUMNS,
    DETECTION: DETECTION_COLUMNS,
}
_LABELS = {
    MULTI_LABEL: ['label'],
    CLASSIFICATION: ['truth', 'pred'],
    SEGMENTATION: ['label'],
    DETECTION: ['label'],
}
#: Columns that identify a row of a member.
_KEYS = {
    MULTI_LABEL: ['id', 'label'],
    CLASSIFICATION: ['id'],
    SEGMENTATION: ['id', 'label'],
    DETECTION: ['id', 'label', 'rank'],
}


@dataclass(frozen=True)
class Measure:
    """A measure of the quality of predictions.

    Attributes:
        name: Name in tables; see :func:`mmkdml.metric_info.metric_info` for title and unit.
        tasks: Some of ``'classification'``, ``'multi-label classification'``, ``'segmentation'``
            and ``'detection'``.
        score: Computes a fraction, (...), from its rows of the sums, each (..., K); for detection
            from the two average precisions.
        rows: Indices of these rows.
        ranked: True for values of curves, see :class:`~.ranking.Ranking`.
        scale: Factor of the result: 100 for a fraction that is shown in percent.
        column: Optional column that case tables need; empty for none.
    """

    name: str
    tasks: tuple[str, ...]
    score: Callable[..., np.ndarray]
    rows: tuple[int, ...] = (0, 1, 2)
    ranked: bool = False
    scale: float = 100
    column: str = ''

    @property
    def info(self) -> MetricInfo:
        """Title, unit and better direction."""
        return METRIC_INFOS[self.name]

    def value(self, summed: np.ndarray | Sums) -> np.ndarray:
        """Compute the measure of a test split or resample.

        Args:
            summed: Sums over the groups, (..., R, K), with a row for TP, FP and FN of each class
                and the rows of :func:`count`, or a function that returns them, see
                :class:`~.ranking.Scored`; for detection the average precisions of
                :meth:`~.detections.Detections.summed`, (..., 2).

        Returns:
            In the unit of the measure, (...). Classes that occur neither in the ground truth nor in
            the predictions are ignored; NaN if no class is left. A class that is never predicted
            has precision 0, and one that does not occur in the ground truth has recall 0, as in
            :class:`~mmkdml.evaluation.ForegroundIoU`,
            :class:`~mmkdml.evaluation.MacroPrecisionRecall` and scikit-learn.
        """
        rows = np.asarray(summed(self.ranked) if callable(summed) else summed, float)
        if DETECTION in self.tasks:
            return self.scale * self.score(*np.moveaxis(rows, -1, 0))
        return self.scale * self.score(*np.moveaxis(rows[..., self.rows, :], -2, 0))

    def values(self, summed: Sequence[np.ndarray | Sums]) -> list[np.ndarray]:
        """Compute the measure of several test splits or resamples, see :meth:`value`, at once."""
        rows = [one(self.ranked) if callable(one) else one for one in summed]
        if len({row.shape for row in rows}) == 1:
            return list(self.value(np.stack(rows)))
        return list(map(self.value, rows))  # runs may have different optional columns


def _iou(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    return _mean_of_occurring(tp, tp + fp + fn, tp + fp + fn)


def _f1(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    return _mean_of_occurring(2 * tp, 2 * tp + fp + fn, tp + fp + fn)


def _accuracy(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    return _ratio(tp.sum(-1), (tp + fn).sum(-1))


def _precision(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    return _mean_of_occurring(tp, tp + fp, tp + fp + fn)


def _recall(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    return _mean_of_occurring(tp, tp + fn, tp + fp + fn)


def _mean_of_occurring(part: np.ndarray, total: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    ratios = part / np.maximum(total, 1)  # 0 if the class does not occur
    return _ratio(ratios.sum(-1), (occurrences > 0).sum(-1))


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.where(total > 0, part / np.maximum(total, 1), np.nan)


def _balanced_accuracy(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    return _mean_of_occurring(tp, tp + fn, tp + fn)


def _mean_of_defined(values: np.ndarray, number: np.ndarray | float = 1.0) -> np.ndarray:
    """Return the mean over classes of sums divided by their number; NaN without any."""
    defined = np.isfinite(values) & (np.asarray(number) > 0)
    means = np.where(defined, values, 0) / np.maximum(number, 1)
    return _ratio(means.sum(-1), defined.sum(-1))


MEASURES = {
    one.name: one
    for one in (
        Measure('IoU', (SEGMENTATION,), _iou),
        Measure('accuracy', (CLASSIFICATION,), _accuracy),
        Measure('F1', (CLASSIFICATION, MULTI_LABEL, SEGMENTATION), _f1),
        Measure('balanced_accuracy', (CLASSIFICATION,), _balanced_accuracy),
        Measure('precision', (CLASSIFICATION, MULTI_LABEL), _precision),
        Measure('recall', (CLASSIFICATION, MULTI_LABEL), _recall),
        *(
            Measure(name, (CLASSIFICATION, MULTI_LABEL), _mean_of_defined, (row,), True, 100, SCORE)
            for row, name in enumerate(RANKED)
        ),
        Measure('Brier', (CLASSIFICATION, MULTI_LABEL), _mean_of_defined, (3, 4), False, 1, SCORE),
        Measure('AP', (DETECTION,), lambda mean, first: mean),
        Measure('AP50', (DETECTION,), lambda mean, first: first),
        *(
            Measure(name, (SEGMENTATION,), _mean_of_defined, (row, row + 1), False, 1, name)
            for row, name in zip(range(3, 99, 2), CASE_VALUES, strict=False)
        ),
    )
}
_DERIVED = ('Dice', 'case_IoU')  # from TP, FP and FN


def measures_of(cases: pd.DataFrame) -> list[str]:
    """Return the names of the measures that can be computed from a case table."""
    task, columns = task_of_cases(cases), {'', *_DERIVED, *cases.columns}
    if _score_columns(cases):
        columns.add(SCORE)
    return [name for name, one in MEASURES.items() if task in one.tasks and one.column in columns]


def task_of_cases(cases: pd.DataFrame) -> str:
    """Return the task of a case table, see :class:`mmkdml.evaluation.CaseTable`.

    Raises:
        ValueError: If it has the columns of no task.
    """
    for task, columns in COLUMNS.items():
        if set(columns) <= set(cases.columns):
            return task
    raise ValueError(
        f'Invalid case table: expected columns {" or ".join(map(str, COLUMNS.values()))}, got '
        f'{list(cases.columns)}. Test the run again'
    )


def class_count(cases: pd.DataFrame) -> int:
    """Return the number of classes in a case table, without the background of a segmentation.

    It is derived from the largest label in ground truth and predictions, so tables of the same data
    set may differ. Use the maximum of all compared tables.

    Raises:
        ValueError: If the table belongs to no task, or there are more than 65536 classes.
    """
    if cases.empty:
        return 0
    task = task_of_cases(cases)
    classes = int(cases[_LABELS[task]].to_numpy().max()) + (task != SEGMENTATION)
    classes = max(classes, len(_score_columns(cases)))
    if classes > _MAX_CLASSES:
        raise ValueError(
            f'Invalid case table: expected at most {_MAX_CLASSES} classes, got {classes}. Test the '
            'run again'
        )
    return classes


def count(
    cases: pd.DataFrame, groups: Sequence[str], classes: int
) -> np.ndarray | Detections | Scored:
    """Count correct and wrong predictions of one member by group.

    Args:
        cases: Case table of one member, see :class:`mmkdml.evaluation.CaseTable`.
        groups: Names of the G groups in the order of the result.
        classes: Number of classes K, at least :func:`class_count`.

    Returns:
        TP, FP and FN, in images or pixels, (G, 3, K). For segmentation they are followed by two
        rows for each of :data:`~mmkdml.names.CASE_VALUES` in the table, the sum over cases and the
        number of cases that have a value, (G, 3 + 2 V, K). With scores of classes these, with the
        sum of squared errors and the number of cases in (G, 5, K); for detection the detections.

    Raises:
        ValueError: If the columns belong to no task, a case occurs twice, a group is missing in
            ``groups``, or a label, score or set of hits is invalid.
    """
    task = task_of_cases(cases)
    repeated = cases.loc[cases.duplicated(_KEYS[task]), 'id']
    if len(repeated):
        raise ValueError(
            f'Invalid case table: expected each case of a member once, got {repeated.iloc[0]!r} '
            f'twice ({len(repeated)} repeated rows). Test the run again, in one process'
        )
    rows = pd.Index(groups).get_indexer(cases['group'])
    if (rows < 0).any():
        unknown = sorted(set(cases['group'][rows < 0]))
        raise ValueError(f'Invalid groups: expected {list(groups)[:3]} ..., got {unknown[:3]} too')
    labels = cases[_LABELS[task]].to_numpy().T - (task == SEGMENTATION)
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f'Invalid labels: expected {classes} classes, got {np.unique(labels)}')
    if task == DETECTION:
        return Detections(cases, rows, len(groups))
    counts = np.zeros((len(groups), 3, classes))
    if task == SEGMENTATION:
        for kind, column in enumerate(('tp', 'fp', 'fn')):
            np.add.at(counts, (rows, kind, labels[0]), cases[column].to_numpy())
        return np.concatenate([counts, _summed_values(cases, (rows, labels[0]), counts)], 1)
    if task == MULTI_LABEL:
        truth, pred = (cases[column].to_numpy() == 1 for column in ('truth', 'pred'))
        for kind, chosen in enumerate((truth & pred, ~truth & pred, truth & ~pred)):
            np.add.at(counts, (rows[chosen], kind, labels[0][chosen]), 1)
    else:
        truth, pred = labels
        correct = truth == pred
        np.add.at(counts, (rows[correct], 0, truth[correct]), 1)
        np.add.at(counts, (rows[~correct], 1, pred[~correct]), 1)
        np.add.at(counts, (rows[~correct], 2, truth[~correct]), 1)
    return _scored(cases, rows, counts, task == MULTI_LABEL)


def _score_columns(cases: pd.DataFrame) -> list[str]:
    """Return the columns with the scores of classes, in the order of the classes."""
    if SCORE in cases:
        return [] if 'rank' in cases else [SCORE]
    names = (f'{SCORE}_{label}' for label in integers())
    return list(takewhile(lambda name: name in cases, names))


def _summed_values(
    cases: pd.DataFrame, places: tuple[np.ndarray, np.ndarray], counts: np.ndarray
) -> np.ndarray:
    """Sum the values of the cases by group, and count them, (G, 2 V, K)."""
    tp, fp, fn = (cases[column].to_numpy(float) for column in ('tp', 'fp', 'fn'))
    with np.errstate(invalid='ignore'):
        derived = {'Dice': 200 * tp / (2 * tp + fp + fn), 'case_IoU': 100 * tp / (tp + fp + fn)}
    given = {name: cases[name].to_numpy(float) for name in CASE_VALUES if name in cases}
    # Without other columns, the first ones suffice.
    names = CASE_VALUES if given else _DERIVED
    sums = np.zeros((len(counts), 2 * len(names), counts.shape[-1]))
    for row, name in enumerate(names):
        values = {**derived, **given}.get(name, np.full(len(cases), np.nan))
        defined = ~np.isnan(values)
        np.add.at(sums[:, 2 * row], places, np.where(defined, values, 0))
        np.add.at(sums[:, 2 * row + 1], places, defined)
    return sums


def _scored(
    cases: pd.DataFrame, rows: np.ndarray, counts: np.ndarray, multi_label: bool
) -> np.ndarray | Scored:
    """Add squared errors and scores to the counts, if the table has scores."""
    if not (columns := _score_columns(cases)):
        return counts
    classes = counts.shape[-1]
    if multi_label:
        table = cases.assign(row=rows).pivot(index=['row', 'id'], columns='label')
        scores, truth = (table[name].to_numpy() for name in (SCORE, 'truth'))
        rows, truth = table.index.get_level_values('row').to_numpy(), truth == 1
    else:
        scores, truth = cases[columns].to_numpy(), np.eye(classes, dtype=bool)[cases['truth']]
    if scores.shape[1] != classes or not np.isfinite(scores).all():
        raise ValueError(
            f'Invalid scores: expected a finite number for each of {classes} classes, got '
            f'{scores.shape[1]} columns with {(~np.isfinite(scores)).sum()} other values. Test the '
            'run again'
        )
    sums = np.zeros((len(counts), 2, classes))
    # The sum over more than two classes, of which a case has one
    factor = 1 if multi_label or classes < 3 else classes
    np.add.at(sums[:, 0], rows, factor * np.square(scores.astype(float) - truth))
    np.add.at(sums[:, 1], rows, 1)
    return Scored(np.concatenate([counts, sums], 1), scores, truth, rows)
