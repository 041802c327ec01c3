"""Differences that a suite can detect, before or after it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prettytable import PrettyTable

from mmkdml.experiments.suites.suite import Suite
from mmkdml.statistics.counts import Counts
from mmkdml.statistics.power import Plan, Variances, detectable, measured_variances


def detectable_differences(
    suite: Suite,
    counts: Counts | None = None,
    measure: str | None = None,
    power: float = 0.8,
    groups: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    claims: int | None = None,
    seed_sd: float | None = None,
    case_sd: float | None = None,
) -> str:
    """Format the differences that a suite detects, by numbers of groups and seeds.

    Args:
        suite: The suite.
        counts: Counts of its finished runs; None if ``groups``, ``seed_sd`` and ``case_sd`` are
            given.
        measure: Name of the measure. Default: the first one of the suite.
        power: Probability of detection.
        groups: Numbers of groups of test cases. Default: as tested.
        seeds: Numbers of seeds. Default: that of the suite.
        claims: Number of claims that are corrected together. Default: that of the suite's primary
            claims, or 1.
        seed_sd: Standard deviation of a run over seeds. Default: as measured.
        case_sd: Standard deviation of the difference of two runs over groups. Default: as measured.

    Raises:
        ValueError: If the measure is unknown, a number is missing without counts, or too few runs
            are finished to measure a standard deviation.
    """
    measure = measure or suite.measures[0]
    info = Counts('', {}).check_measure(measure).info
    if counts is not None:
        measured = measured_variances(counts, measure)
        seed_sd = measured.seed_sd if seed_sd is None else seed_sd
        case_sd = measured.case_sd if case_sd is None else case_sd
        tested = next(iter(next(iter(counts.by_entry.values())).values())).cases
        groups = groups or [len({group for _, group in tested})]
    if groups is None or seed_sd is None or case_sd is None:
        raise ValueError(
            'Invalid plan: expected groups, seed_sd and case_sd, or counts of finished runs, got '
            f'groups={groups}, seed_sd={seed_sd}, case_sd={case_sd}'
        )
    variances = Variances(seed_sd, case_sd)
    runs = len({run.run for run in suite.runs})
    claims = claims or max(1, sum(claim.primary for claim in suite.claims))
    seeds = seeds or [len({run.seed for run in suite.runs})]
    table = PrettyTable(['groups', *(f'{one} seed{"s" * (one != 1)}' for one in seeds)], align='r')
    for number in groups:
        plans = [Plan(runs, one, number, claims) for one in seeds]
        found = [detectable(plan, variances, power) for plan in plans]
        table.add_row(
            [number, *('-' if one == math.inf else f'{one:.{info.digits}f}' for one in found)]
        )
    unit = f' in {info.difference_unit}' if info.difference_unit else ''
    return (
        f'Differences of {measure}{unit} that are detected with a probability of {power:g}, for '
        f'{runs} runs and {claims} corrected claim{"s" * (claims != 1)}.\nStandard deviations: '
        f'{variances.seed_sd:.{info.digits}f} of a run over seeds, '
        f'{variances.case_sd:.{info.digits}f} of a difference over groups.\n{table}'
    )
