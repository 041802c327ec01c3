"""Scores of case tables with intervals, outside of a suite."""

from __future__ import annotations

import pandas as pd

from mmkdml.statistics.bootstrap import RESAMPLES, Contrast, estimate
from mmkdml.statistics.counts import Counts, Sample
from mmkdml.statistics.measures import MEASURES, class_count, count, task_of_cases


def case_scores(
    cases: pd.DataFrame, reference: str | None = None, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Every measure of the task for each member, with bootstrap intervals over groups of cases.

    Args:
        cases: As :class:`mmkdml.evaluation.CaseTable` makes it, of any number of members.
        reference: A member that each other one is also compared with, paired by case.
        resamples: Number of bootstrap values.

    Returns:
        Columns ``member, measure, value, low, high, groups`` in percent, the interval being of
        95 %; with a reference also ``difference, difference_low, difference_high`` in points,
        ``nan`` for itself. Where there is no interval, with one group for instance, it is ``nan``.

    Raises:
        ValueError: If the table is of no task, or has no such member.
    """
    task, members = task_of_cases(cases), list(dict.fromkeys(cases['member']))
    if reference not in (None, *members):
        raise ValueError(f'expected a reference among {", ".join(members)}, got {reference!r}')
    classes = class_count(cases)
    samples = {}
    for name, rows in cases.groupby('member', sort=False):
        pairs = frozenset(zip(rows['id'], rows['group'], strict=True))
        by_group = count(rows, sorted(set(rows['group'])), classes)
        samples['', str(name)] = {0: Sample(pairs, by_group)}
    counts = Counts(task, samples)
    found = []
    for measure in (name for name, one in MEASURES.items() if one.task == task):
        alone = [Contrast(('', name)) for name in members]
        paired = [
            Contrast(('', name), (('', str(reference)),)) for name in members if name != reference
        ]
        answers = estimate(counts, measure, alone + paired * bool(reference), resamples=resamples)
        differences = {
            contrast.entry[1]: dict(
                difference=answer.value, difference_low=answer.low, difference_high=answer.high
            )
            for contrast, answer in zip(paired, answers[len(alone) :], strict=bool(reference))
        }
        found += [
            dict(
                member=name,
                measure=measure,
                value=answer.value,
                low=answer.low,
                high=answer.high,
                groups=answer.groups,
                **differences.get(name, {}),
            )
            for name, answer in zip(members, answers, strict=False)  # the paired ones come after
        ]
    return pd.DataFrame(found)
