"""Order the viewer's cases by hardness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mmkdml.analysis.hard_cases import choose_cases, overlap
from mmkdml.apis.prediction.answers import Answer
from mmkdml.apis.prediction.box_outputs import as_boxes
from mmkdml.apis.view.maps import class_probability
from mmkdml.apis.view.slices import ViewSlice
from mmkdml.evaluation.boxes.panels import compare_boxes
from mmkdml.evaluation.boxes.samples import TrueBoxes
from mmkdml.evaluation.mask_panels import IGNORED
from mmkdml.names import SCORE_THRESHOLD

F1, IOU, PROBABILITY = 'F1', 'IoU', 'probability'


def case_row(
    name: str, group: str, views: Sequence[ViewSlice], students: Sequence[str]
) -> dict[str, Any]:
    """Return a case as a row of :func:`mmkdml.analysis.measure_cases`; a volume is one image.

    Args:
        name: Name of the case.
        group: Its group.
        views: Its slices.
        students: Members whose disagreement counts.

    Returns:
        The row; numbers that need the truth are ``nan`` without it.
    """
    pairs = [
        np.mean([_difference(view.answers[a], view.answers[b]) for view in views])
        for a, b in combinations(students, 2)
    ]
    row = dict(id=name, group=group, region_px=np.nan, smallest_px=0)
    row['disagreement_percent'] = 100 * np.mean(pairs) if pairs else np.nan
    known = all(view.truth is not None for view in views)
    for member, first in views[0].answers.items():
        answers, truths = [view.answers[member] for view in views], [view.truth for view in views]
        measure = measure_of(first)
        if measure == IOU and known:
            labels, truths = np.stack([one.label for one in answers]), [np.stack(truths)]
            row['region_px'] = int(((truths[0] > 0) & (truths[0] != IGNORED)).sum())
            answers = [Answer(labels, np.empty(0))]
        both = zip(answers, truths, strict=True) if known else ()
        values = [true_quality(*one) for one in both]
        row[f'{member}_{measure}_percent'] = pd.Series(values, dtype=float).mean()
    return row


def hardest_first(
    names: Sequence[str],
    row_of: Callable[[str], Mapping[str, Any]],
    by: str,
    progress: Callable[[Sequence[str]], Any] = iter,
) -> tuple[list[str], dict[str, str]]:
    """Order cases by :func:`mmkdml.analysis.choose_cases`.

    Args:
        names: Names of the cases.
        row_of: Returns the row of a case; see :func:`case_row`.
        by: ``'disagreement'`` or ``'worst'``.
        progress: Iterates over the names and shows progress.

    Returns:
        The names, and the reasons by name of the cases that failed.

    Raises:
        ValueError: If all cases failed, or ``by`` is undefined for all of them.
    """
    rows, failed = [], {}
    for name in progress(names):
        try:
            rows.append(row_of(name))
        except (OSError, ValueError) as error:
            failed[name] = str(error)
    if not rows:
        raise ValueError(next(iter(failed.values())))
    return choose_cases({'': pd.DataFrame(rows)}, by, len(rows), repeat_groups=True), failed


def measure_of(answer: Answer) -> str:
    """Return the measure that compares a prediction with the truth."""
    return F1 if answer.boxes is not None else IOU if np.ndim(answer.label) > 1 else PROBABILITY


def true_quality(answer: Answer, truth: Any, score: float = SCORE_THRESHOLD) -> float:
    """Compare a prediction with the truth, in percent; ``nan`` if both are empty.

    Args:
        answer: The prediction.
        truth: See :class:`~mmkdml.apis.view.slices.ViewSlice`.
        score: Lowest score of boxes that count.

    Returns:
        IoU of all foreground classes together for masks, F1 of boxes at IoU 0.5, or the
        probability of the true class, as a mean over classes if there can be several.
    """
    measure = measure_of(answer)
    if measure == F1:
        return compare_boxes(as_boxes(answer).above(score), truth).f1
    if measure == IOU:
        counted = truth != IGNORED
        return overlap((answer.label > 0) & counted, (truth > 0) & counted)[0]
    if isinstance(truth, tuple):
        present = np.isin(np.arange(len(answer.scores)), truth)
        return 100 * float(np.where(present, answer.scores, 1 - answer.scores).mean())
    return 100 * float(class_probability(answer.probabilities, truth))


def _difference(a: Answer, b: Answer) -> float:
    """Return the share of pixels or boxes that differ, or half the L1 distance of classes."""
    measure = measure_of(a)
    if measure == F1:
        first, second = as_boxes(a).above(SCORE_THRESHOLD), as_boxes(b).above(SCORE_THRESHOLD)
        none = np.zeros(len(second.labels), bool)
        f1 = compare_boxes(first, TrueBoxes(second.boxes, second.labels, none)).f1
        return 0.0 if np.isnan(f1) else 1 - f1 / 100
    if measure == IOU:
        return float((a.label != b.label).mean())
    distances = np.abs(a.probabilities - b.probabilities)
    independent = len(distances) == 1 or isinstance(a.label, tuple)
    return float(distances.mean() if independent else distances.sum() / 2)
