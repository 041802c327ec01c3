"""Scores with confidence intervals of a case table that is not part of a suite."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mmkdml.statistics.bootstrap import Contrast, estimate
from mmkdml.statistics.counts import Counts, count_members
from mmkdml.statistics.measures import class_count, measures_of, task_of_cases


def case_scores(
    cases: pd.DataFrame, reference: str | None = None, resamples: int = 0
) -> pd.DataFrame:
    """Compute all measures of the task for each member, with 95 % intervals over groups of cases.

    Args:
        cases: Case table of one or more members, see :class:`mmkdml.evaluation.CaseTable`.
        reference: Member that the others are compared with, paired by case.
        resamples: See :func:`~mmkdml.statistics.bootstrap.estimate`.

    Returns:
        Columns ``member, measure, value, low, high, groups`` in its unit; with a reference also
        ``difference, difference_low, difference_high`` in points, NaN for the reference. Undefined
        intervals, e.g. with one group or of 100 percent, are NaN.

    Raises:
        ValueError: If the table belongs to no task or lacks the reference.
    """
    task, members = task_of_cases(cases), list(dict.fromkeys(cases['member']))
    if reference not in (None, *members):
        raise ValueError(
            f'Invalid reference: expected one of {", ".join(members)}, got {reference!r}'
        )
    by_member = count_members(cases, class_count(cases))
    counts = Counts(task, {('', name): {0: one} for name, one in by_member.items()})
    contrasts = [Contrast(('', name)) for name in members]
    if reference is not None:
        rivals = (('', reference),)
        contrasts += [Contrast(('', name), rivals) for name in members if name != reference]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for measure in measures_of(cases):
        estimates = estimate(counts, measure, contrasts, resamples=resamples)
        for contrast, one in zip(contrasts, estimates, strict=True):
            name = contrast.entry[1]
            row = rows.setdefault((measure, name), dict(member=name, measure=measure))
            if contrast.competitors:
                row |= dict(difference=one.value, difference_low=one.low, difference_high=one.high)
            else:
                row |= dict(value=one.value, low=one.low, high=one.high, groups=one.groups)
    return pd.DataFrame(list(rows.values()))
