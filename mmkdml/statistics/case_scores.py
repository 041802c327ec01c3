"""Scores of case tables with confidence intervals, without a suite."""

from __future__ import annotations

import pandas as pd

from mmkdml.statistics.bootstrap import RESAMPLES, Contrast, estimate
from mmkdml.statistics.counts import Counts, Sample
from mmkdml.statistics.measures import MEASURES, class_count, count, task_of_cases


def case_scores(
    cases: pd.DataFrame, reference: str | None = None, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Compute all measures of the task for each member, with 95 % intervals over groups of cases.

    Args:
        cases: Case table of one or more members, see :class:`mmkdml.evaluation.CaseTable`.
        reference: Member that the others are compared with, paired by case.
        resamples: Number of bootstrap values.

    Returns:
        Columns ``member, measure, value, low, high, groups`` in percent; with a reference also
        ``difference, difference_low, difference_high`` in points, NaN for the reference. Undefined
        intervals, e.g. with one group, are NaN.

    Raises:
        ValueError: If the table belongs to no task or lacks the reference.
    """
    task, members = task_of_cases(cases), list(dict.fromkeys(cases['member']))
    if reference not in (None, *members):
        raise ValueError(
            f'Invalid reference: expected one of {", ".join(members)}, got {reference!r}'
        )
    classes = class_count(cases)
    samples = {}
    for name, rows in cases.groupby('member', sort=False):
        pairs = frozenset(zip(rows['id'], rows['group'], strict=True))
        by_group = count(rows, sorted(set(rows['group'])), classes)
        samples['', str(name)] = {0: Sample(pairs, by_group)}
    counts = Counts(task, samples)
    found = []
    for measure in (name for name, one in MEASURES.items() if one.task == task):
        means = [Contrast(('', name)) for name in members]
        differences = [
            Contrast(('', name), (('', str(reference)),)) for name in members if name != reference
        ]
        contrasts = means + differences * bool(reference)
        estimates = estimate(counts, measure, contrasts, resamples=resamples)
        compared = {
            contrast.entry[1]: dict(
                difference=one.value, difference_low=one.low, difference_high=one.high
            )
            for contrast, one in zip(differences, estimates[len(means) :], strict=bool(reference))
        }
        found += [
            dict(
                member=name,
                measure=measure,
                value=one.value,
                low=one.low,
                high=one.high,
                groups=one.groups,
                **compared.get(name, {}),
            )
            for name, one in zip(members, estimates, strict=False)  # the means come first
        ]
    return pd.DataFrame(found)
