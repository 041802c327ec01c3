"""Measures from counts that can be added, so that groups of cases can be drawn again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmkdml.names import CLASSIFICATION_COLUMNS, SEGMENTATION_COLUMNS

CLASSIFICATION, SEGMENTATION = 'classification', 'segmentation'
_MOST_CLASSES = 1 << 16  # the counts of all must find room
COLUMNS = {CLASSIFICATION: CLASSIFICATION_COLUMNS, SEGMENTATION: SEGMENTATION_COLUMNS}


@dataclass(frozen=True)
class Measure:
    """A measure of the quality of predictions, in percent; more is better.

    Attributes:
        name: As in the heads of tables.
        task: The task whose case tables it is made from.
        score: Fraction from TP, FP and FN, each of shape (..., K).
    """

    name: str
    task: str
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def value(self, counts: np.ndarray) -> np.ndarray:
        """The measure of counts that were summed over groups.

        Args:
            counts: TP, FP and FN of each class, (..., 3, K).

        Returns:
            Percent, (...). Where nothing can be said (0 / 0) it is what the metrics of the
            configs make of it. ``IoU`` and ``F1``, as :class:`mmkdml.evaluation.ForegroundIoU`:
            classes without a pixel in truth and prediction are left out; ``nan`` if none is left.
            ``precision`` and ``recall``, as :class:`mmkdml.evaluation.MacroPrecisionRecall` and
            scikit-learn: a class that is never predicted has precision 0, one that is predicted
            without an image recall 0; one without both is left out. ``nan`` if none is left.
        """
        tp, fp, fn = np.moveaxis(np.asarray(counts, float), -2, 0)
        return 100 * self.score(tp, fp, fn)


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


def _mean_of_occurring(part: np.ndarray, whole: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    ratios = part / np.maximum(whole, 1)  # 0 where the class does not occur: adds nothing
    return _ratio(ratios.sum(-1), (occurrences > 0).sum(-1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


MEASURES = {
    name: Measure(name, task, score)
    for name, task, score in (
        ('IoU', SEGMENTATION, _iou),
        ('F1', SEGMENTATION, _f1),
        ('accuracy', CLASSIFICATION, _accuracy),
        ('precision', CLASSIFICATION, _precision),
        ('recall', CLASSIFICATION, _recall),
    )
}


def measure_named(name: str) -> Measure:
    """The measure of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in MEASURES:
        raise ValueError(f'expected a measure among {", ".join(MEASURES)}, got {name!r}')
    return MEASURES[name]


def task_of_cases(cases: pd.DataFrame) -> str:
    """The task a case table is of.

    Args:
        cases: Columns as in :class:`mmkdml.evaluation.CaseTable`.

    Raises:
        ValueError: If the columns are those of no task.
    """
    for task, columns in COLUMNS.items():
        if set(columns) <= set(cases.columns):
            return task
    raise ValueError(
        f'expected a case table with the columns {" or ".join(map(str, COLUMNS.values()))}, '
        f'got {list(cases.columns)}: test the run again'
    )


def class_count(cases: pd.DataFrame) -> int:
    """Number of classes, the background of a segmentation not among them, that a table tells of.

    A class above all that occur in truth and predictions is not known of. Count over all tables
    that are compared, so that each mean is over the same classes.

    Raises:
        ValueError: If there are more than any data set has.
    """
    if cases.empty:
        return 0
    if task_of_cases(cases) == SEGMENTATION:
        classes = int(cases['label'].max())
    else:
        classes = int(cases[['truth', 'pred']].to_numpy().max()) + 1
    if classes > _MOST_CLASSES:
        raise ValueError(
            f'expected labels of at most {_MOST_CLASSES} classes, got one of {classes}: the case '
            'table is damaged, test the run again'
        )
    return classes


def count(cases: pd.DataFrame, groups: Sequence[str], classes: int) -> np.ndarray:
    """Counts the answers of one member by group.

    Args:
        cases: Case table of one member: each image once, or once for each foreground class.
        groups: The G groups in the order wanted, each once.
        classes: K, at least :func:`class_count`.

    Returns:
        TP, FP and FN, in images or in pixels, (G, 3, K).

    Raises:
        ValueError: If the columns are those of no task, a case comes twice, a group is not among
            ``groups`` or a label is no class.
    """
    task = task_of_cases(cases)
    key = ['id', 'label'] if task == SEGMENTATION else ['id']
    twice = cases.loc[cases.duplicated(key), 'id']
    if len(twice):
        raise ValueError(
            f'expected each case of a member once, got {twice.iloc[0]!r} twice '
            f'({len(twice)} such rows): test the run again, on one process'
        )
    rows = pd.Index(groups).get_indexer(cases['group'])
    if (rows < 0).any():
        strange = sorted(set(cases['group'][rows < 0]))
        raise ValueError(f'expected groups among the {len(groups)} given, got {strange[:3]} too')
    labels = (
        [cases['label'].to_numpy() - 1]
        if task == SEGMENTATION
        else [cases['truth'].to_numpy(), cases['pred'].to_numpy()]
    )
    for label in labels:
        if ((label < 0) | (label >= classes)).any():
            raise ValueError(f'expected labels of {classes} classes, got {sorted(set(label))}')
    counts = np.zeros((len(groups), 3, classes))
    if task == SEGMENTATION:
        for kind, column in enumerate(('tp', 'fp', 'fn')):
            np.add.at(counts, (rows, kind, labels[0]), cases[column].to_numpy())
        return counts
    truth, pred = labels
    right = truth == pred
    np.add.at(counts, (rows[right], 0, truth[right]), 1)
    np.add.at(counts, (rows[~right], 1, pred[~right]), 1)
    np.add.at(counts, (rows[~right], 2, truth[~right]), 1)
    return counts
