"""Counts of what the runs of a suite answered on the test part, and their scores by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmkdml.modes import MODES, STYLES
from mmkdml.statistics.measures import Measure, class_count, count, measure_named, task_of_cases
from mmkdml.statistics.records import CHECKPOINTS, DONE, SuiteRecord

Entry = tuple[str, str]
"""Name of a run and one of its members."""

Variants = dict[str, dict[tuple[str, str], str]]
"""Run names of a suite by variant, then by mode and style."""


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Sample:
    """What one member of one run answered on the test part.

    Attributes:
        cases: The ``(id, group)`` pairs it was tested on.
        counts: TP, FP and FN by group, in the order of the groups' names, (G, 3, K).
    """

    cases: frozenset[tuple[str, str]]
    counts: np.ndarray


@dataclass(frozen=True)
class Counts:
    """Counts of all runs of a suite that are done.

    Attributes:
        task: Of the case tables; empty without any.
        samples: By run and member, then by seed.
    """

    task: str
    samples: Mapping[Entry, Mapping[int, Sample]]

    def scores(self, measure: str) -> dict[Entry, dict[int, float]]:
        """The measure over the whole test part, in percent, by run and member, then by seed.

        Raises:
            ValueError: If there is no such measure, or it is one of another task.
        """
        of = self.checked(measure)
        return {
            entry: {seed: float(of.value(one.counts.sum(0))) for seed, one in by_seed.items()}
            for entry, by_seed in self.samples.items()
        }

    def checked(self, measure: str) -> Measure:
        """The measure of that name.

        Raises:
            ValueError: As :meth:`scores`.
        """
        found = measure_named(measure)
        if self.task not in ('', found.task):
            raise ValueError(
                f'{measure} is a measure of {found.task}, but the runs were tested on '
                f'{self.task}: choose other measures for the suite'
            )
        return found


def count_cases(record: SuiteRecord, checkpoint: str) -> Counts:
    """Counts what the members of all runs that are done answered.

    Args:
        record: The suite. Runs that are not done, or were not tested with the checkpoint, are left
            out.
        checkpoint: ``'best'`` or ``'last'``.

    Raises:
        ValueError: If there is no such checkpoint, a case table is not valid (see
            :func:`~mmkdml.statistics.measures.count`), or the tables are of two tasks.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f'expected a checkpoint among {CHECKPOINTS}, got {checkpoint!r}')
    tables = {
        (run.name, run.seed): run.measured[checkpoint].cases
        for run in record.runs
        if run.state == DONE and checkpoint in run.measured
    }
    tasks = {task_of_cases(cases) for cases in tables.values()}
    if len(tasks) > 1:
        raise ValueError(f'expected runs of one task in {record.name}, got {sorted(tasks)}')
    classes = max(map(class_count, tables.values()), default=0)
    samples: dict[Entry, dict[int, Sample]] = {}
    # One object for equal sets: they are compared often, and the same object is equal at once.
    known: dict[frozenset, frozenset] = {}
    for (name, seed), table in tables.items():
        for member, cases in table.groupby('member', sort=False):
            pairs = frozenset(zip(cases['id'], cases['group'], strict=True))
            try:
                counts = count(cases, sorted(set(cases['group'])), classes)
            except ValueError as error:
                raise ValueError(f'{name}, seed {seed}, {member}: {error}') from error
            sample = Sample(known.setdefault(pairs, pairs), counts)
            samples.setdefault((name, str(member)), {})[seed] = sample
    return Counts(next(iter(tasks), ''), samples)


def seed_scores(record: SuiteRecord) -> pd.DataFrame:
    """Every figure that means and differences are made of.

    Returns:
        A row for each run that is done, seed, checkpoint, member and measure of the suite:
        ``run, mode, style, seed, checkpoint, member, measure, value``, in percent.

    Raises:
        ValueError: As :func:`count_cases` and :meth:`Counts.scores`.
    """
    kinds = {run.name: (run.mode, run.style) for run in record.runs}
    rows = [
        (name, *kinds[name], seed, checkpoint, member, measure, value)
        for checkpoint in CHECKPOINTS
        for counts in (count_cases(record, checkpoint),)
        for measure in record.measures
        for (name, member), by_seed in counts.scores(measure).items()
        for seed, value in by_seed.items()
    ]
    columns = ['run', 'mode', 'style', 'seed', 'checkpoint', 'member', 'measure', 'value']
    return pd.DataFrame(rows, columns=columns)


def find_variants(record: SuiteRecord) -> Variants:
    """Names of the distilled runs by variant, then by mode and style.

    The variant is what stands before the last ``/`` of the name, ``''`` without one. Runs of no
    known mode and style are left out.

    Raises:
        ValueError: If two names of a variant have the same mode and style.
    """
    found: Variants = {}
    for run in record.runs:
        if run.mode not in MODES or run.style not in STYLES:
            continue
        variant = run.name.rpartition('/')[0]
        name = found.setdefault(variant, {}).setdefault((run.mode, run.style), run.name)
        if name != run.name:
            raise ValueError(
                f'{name!r} and {run.name!r} are both {run.mode} {run.style}, and a table has one '
                f'cell for it: make them variants, such as {"a/" + name!r} and '
                f'{"b/" + run.name!r}, in the suite file'
            )
    return found
