"""Measures computed from case tables, for any resample of groups of cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmkdml.metric_info import METRIC_INFOS, MetricInfo
from mmkdml.names import (
    CLASSIFICATION_COLUMNS,
    DETECTION_COLUMNS,
    MULTI_LABEL_COLUMNS,
    SEGMENTATION_COLUMNS,
)
from mmkdml.statistics.detections import Detections

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
        score: Computes a fraction, (...), from TP, FP and FN, each (..., K); for detection from the
            two average precisions.
    """

    name: str
    tasks: tuple[str, ...]
    score: Callable[..., np.ndarray]

    @property
    def info(self) -> MetricInfo:
        """Title, unit and better direction."""
        return METRIC_INFOS[self.name]

    def value(self, summed: np.ndarray) -> np.ndarray:
        """Compute the measure of a test split or resample.

        Args:
            summed: TP, FP and FN of each class, (..., 3, K), summed over its groups; for detection
                the average precisions of :meth:`~.detections.Detections.summed`, (..., 2).

        Returns:
            Percent, (...). Classes that occur neither in the ground truth nor in the predictions
            are ignored; NaN if no class is left. A class that is never predicted has precision 0,
            and one that does not occur in the ground truth has recall 0, as in
            :class:`~mmkdml.evaluation.ForegroundIoU`,
            :class:`~mmkdml.evaluation.MacroPrecisionRecall` and scikit-learn.
        """
        axis = -1 if DETECTION in self.tasks else -2
        return 100 * self.score(*np.moveaxis(np.asarray(summed, float), axis, 0))


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


MEASURES = {
    name: Measure(name, tasks, score)
    for name, tasks, score in (
        ('IoU', (SEGMENTATION,), _iou),
        ('F1', (MULTI_LABEL, SEGMENTATION), _f1),
        ('accuracy', (CLASSIFICATION,), _accuracy),
        ('precision', (CLASSIFICATION, MULTI_LABEL), _precision),
        ('recall', (CLASSIFICATION, MULTI_LABEL), _recall),
        ('AP', (DETECTION,), lambda mean, first: mean),
        ('AP50', (DETECTION,), lambda mean, first: first),
    )
}


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
    if classes > _MAX_CLASSES:
        raise ValueError(
            f'Invalid case table: expected at most {_MAX_CLASSES} classes, got {classes}. Test the '
            'run again'
        )
    return classes


def count(cases: pd.DataFrame, groups: Sequence[str], classes: int) -> np.ndarray | Detections:
    """Count correct and wrong predictions of one member by group.

    Args:
        cases: Case table of one member, see :class:`mmkdml.evaluation.CaseTable`.
        groups: Names of the G groups in the order of the result.
        classes: Number of classes K, at least :func:`class_count`.

    Returns:
        TP, FP and FN, in images or pixels, (G, 3, K); for detection the detections.

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
        return counts
    if task == MULTI_LABEL:
        truth, pred = (cases[column].to_numpy() == 1 for column in ('truth', 'pred'))
        for kind, chosen in enumerate((truth & pred, ~truth & pred, truth & ~pred)):
            np.add.at(counts, (rows[chosen], kind, labels[0][chosen]), 1)
        return counts
    truth, pred = labels
    correct = truth == pred
    np.add.at(counts, (rows[correct], 0, truth[correct]), 1)
    np.add.at(counts, (rows[~correct], 1, pred[~correct]), 1)
    np.add.at(counts, (rows[~correct], 2, truth[~correct]), 1)
    return counts
