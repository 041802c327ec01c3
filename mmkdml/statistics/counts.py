"""Counts of correct and wrong predictions of a suite's runs, and their scores by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from mmkdml.modes import MODES, STYLES
from mmkdml.names import SCORE
from mmkdml.statistics.detections import Detections
from mmkdml.statistics.measures import (
    MEASURES,
    Measure,
    class_count,
    count,
    measures_of,
    task_of_cases,
)
from mmkdml.statistics.ranking import Scored, Sums
from mmkdml.statistics.records import CHECKPOINTS, DONE, Measurement, SuiteRecord

Entry = tuple[str, str]
"""Name of a run and one of its members."""

#: Largest number of jackknife replicates of a measure that is not a function of sums over groups.
MOST_REPLICATES = 500

Variants = dict[str, dict[tuple[str, str], str]]
"""Run names by variant of the suite, then by mode and style."""


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class CaseCounts:
    """True and false predictions of one member of one run, counted on the test split.

    Attributes:
        cases: The tested cases, pairs ``(id, group)``.
        counts: Result of :func:`~.measures.count`; groups in alphabetical order.
    """

    cases: frozenset[tuple[str, str]]
    counts: np.ndarray | Detections | Scored

    def for_measure(self, measure: Measure) -> CaseCounts:
        """Return the counts that a measure needs; see :class:`~.stored.StoredCounts`."""
        return self

    def with_cases(self, cases: frozenset[tuple[str, str]]) -> CaseCounts:
        """Return the same counts with another object for equal cases."""
        return replace(self, cases=cases)

    def total(self) -> np.ndarray | Sums:
        """Return the argument of :meth:`~.measures.Measure.value` for the test split."""
        if isinstance(self.counts, np.ndarray):
            return self.counts.sum(0)
        summed = self.counts.summed(np.ones((1, self.counts.groups)))
        return (lambda ranked: summed(ranked)[0]) if callable(summed) else summed[0]

    @property
    def digest(self) -> str:
        """Digest by which equal predictions are recognized; empty if they are no sums."""
        counts = self.counts.counts if isinstance(self.counts, Scored) else self.counts
        if not isinstance(counts, np.ndarray):
            return ''
        # Only TP, FP and FN, because the last digits of scores differ between machines. Classes
        # that only other runs have are removed.
        counts = counts[:, :3]
        used = np.flatnonzero(counts.any((0, 1)))
        counts = np.ascontiguousarray(counts[..., : used[-1] + 1 if len(used) else 0])
        return hashlib.blake2b(counts.tobytes(), digest_size=16).hexdigest()

    def by_group(self) -> np.ndarray | Sums:
        """Return the argument of :meth:`~.measures.Measure.value` for each group, (G, ...)."""
        return self.counts if isinstance(self.counts, np.ndarray) else self.counts.by_group()

    def leave_one_out(self) -> np.ndarray | Sums:
        """Return the argument of :meth:`~.measures.Measure.value` without each group, (B, ...).

        B is the number of groups G. If the counts are not sums over groups, at most
        :data:`MOST_REPLICATES` sets of groups are left out instead, because each one costs as much
        as a resample.
        """
        if isinstance(self.counts, np.ndarray):
            return self.counts.sum(0) - self.counts
        return self.counts.summed(_without_each(len(groups_of(self.cases))))


@lru_cache(maxsize=16)
def groups_of(cases: frozenset[tuple[str, str]]) -> tuple[str, ...]:
    """Return the groups of cases in alphabetical order, as in the arrays of counts."""
    return tuple(sorted({group for _, group in cases}))


@lru_cache(maxsize=1)
def _without_each(groups: int) -> np.ndarray:
    """Return weights without each set of groups, (B, G)."""
    weights = np.ones((min(groups, MOST_REPLICATES), groups))
    for row, left_out in enumerate(np.array_split(np.arange(groups), len(weights))):
        weights[row, left_out] = 0
    return weights


def resampler(samples: Sequence[CaseCounts]) -> Callable[[np.ndarray], np.ndarray | Sums]:
    """Build the function that sums the counts of resamples.

    Args:
        samples: Counts of E members or runs for the same groups.

    Returns:
        Function of how often each group was drawn, (B, G). It returns the argument of
        :meth:`~.measures.Measure.value`, (B, E, ...).
    """
    detections = [one.counts for one in samples if isinstance(one.counts, Detections)]
    if detections:
        return lambda times: np.stack([one.summed(times) for one in detections], 1)
    scored = [one.counts for one in samples if isinstance(one.counts, Scored)]
    if scored:
        return lambda times: (
            lambda ranked: np.stack([one.summed(times)(ranked) for one in scored], 1)
        )
    stacked = np.stack([np.asarray(one.counts) for one in samples], 1)  # (G, E, R, K)
    flat = stacked.reshape(len(stacked), -1)
    return lambda times: (times @ flat).reshape(-1, *stacked.shape[1:])


@dataclass(frozen=True)
class Counts:
    """Counts of the finished runs of a suite.

    Attributes:
        task: Task of the case tables, see :data:`~mmkdml.statistics.measures.COLUMNS`; empty if no
            run is finished.
        by_entry: Counts by run and member, then by seed.
    """

    task: str
    by_entry: Mapping[Entry, Mapping[int, CaseCounts]]
    # Cache of bootstrap.estimate, which tables and claims share.
    estimators: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def scores(self, measure: str) -> dict[Entry, dict[int, float]]:
        """Compute a measure on the complete test split.

        Returns:
            Percent by run and member, then by seed.

        Raises:
            ValueError: If the measure is unknown or belongs to another task.
        """
        checked = self.check_measure(measure)
        keys = [(entry, seed) for entry, by_seed in self.by_entry.items() for seed in by_seed]
        values = checked.values([self.by_entry[entry][seed].total() for entry, seed in keys])
        found: dict[Entry, dict[int, float]] = {entry: {} for entry in self.by_entry}
        for (entry, seed), value in zip(keys, values, strict=True):
            found[entry][seed] = float(value)
        return found

    def check_measure(self, measure: str) -> Measure:
        """Return a measure of the task by name.

        Raises:
            ValueError: If the measure is unknown or belongs to another task.
        """
        if measure not in MEASURES:
            raise ValueError(
                f'Invalid measure: expected one of {", ".join(MEASURES)}, got {measure!r}'
            )
        tasks = MEASURES[measure].tasks
        if self.task not in ('', *tasks):
            raise ValueError(
                f'Invalid measure {measure}: expected a measure of {self.task}, got one of '
                f'{" and ".join(tasks)}. Change the measures of the suite'
            )
        return MEASURES[measure]


def count_cases(record: SuiteRecord, checkpoint: str) -> Counts:
    """Count correct and wrong predictions of all finished runs.

    Args:
        record: The suite. Runs that are not finished or not tested with the checkpoint are skipped.
        checkpoint: ``'best'`` or ``'last'``.

    Raises:
        ValueError: If the checkpoint is unknown, a case table is invalid (see
            :func:`~mmkdml.statistics.measures.count`), or the runs have different tasks.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f'Invalid checkpoint: expected one of {CHECKPOINTS}, got {checkpoint!r}')
    summaries = {
        (run.name, run.seed): summarize(run.measured[checkpoint])
        for run in record.runs
        if run.state == DONE and checkpoint in run.measured
    }
    tasks = {one.task for one in summaries.values()}
    if len(tasks) > 1:
        raise ValueError(
            f'Invalid suite {record.name}: expected runs of one task, got {sorted(tasks)}'
        )
    for (name, seed), one in summaries.items():
        for measure in record.measures:
            own = MEASURES.get(measure)
            if own and one.task in own.tasks and measure not in one.measures:
                raise ValueError(
                    f'Invalid measure {measure} of {name}, seed {seed}: the case table has no '
                    f'column {own.column}. {_fix(own)}. Then run it again'
                )
    classes = max((one.classes for one in summaries.values()), default=0)
    by_entry: dict[Entry, dict[int, CaseCounts]] = {}
    # Equal sets share one object, which makes the many comparisons fast.
    known: dict[frozenset, frozenset] = {}
    for (name, seed), summary in summaries.items():
        for member, counts in summary.members(classes, f'{name}, seed {seed}, ').items():
            cases = known.setdefault(counts.cases, counts.cases)
            shared = counts if cases is counts.cases else counts.with_cases(cases)
            by_entry.setdefault((name, member), {})[seed] = shared
    return Counts(next(iter(tasks), ''), by_entry)


@dataclass(frozen=True)
class Summary:
    """Properties of a case table that are known before its predictions are counted.

    Attributes:
        task: See :func:`~mmkdml.statistics.measures.task_of_cases`.
        classes: See :func:`~mmkdml.statistics.measures.class_count`.
        measures: See :func:`~mmkdml.statistics.measures.measures_of`.
        members: Function that counts the predictions of all members from the number of classes and
            a prefix of error messages, see :func:`count_members`.
    """

    task: str
    classes: int
    measures: Collection[str]
    members: Callable[[int, str], Mapping[str, CaseCounts]]


def summarize(measurement: Measurement) -> Summary:
    """Return the summary that was stored with a measurement, or that of its case table."""
    if measurement.summary is not None:
        return measurement.summary
    cases = measurement.cases
    return Summary(
        task_of_cases(cases),
        class_count(cases),
        measures_of(cases),
        lambda classes, where: count_members(cases, classes, where),
    )


def _fix(measure: Measure) -> str:
    if measure.column == SCORE:
        return 'It is of an older version, or there are too many classes: change the measures'
    return (
        'Add ClinicalSegmentation to the test_evaluator; HD95, ASD and NSD need a spacing, HD95px, '
        'ASDpx and NSDpx need none'
    )


def count_members(cases: pd.DataFrame, classes: int, where: str = '') -> dict[str, CaseCounts]:
    """Count predictions of each member of a case table; ``where`` is a prefix of error messages."""
    found = {}
    for member, rows in cases.groupby('member', sort=False):
        distinct = rows[['id', 'group']].drop_duplicates()  # there are many boxes per image
        pairs = frozenset(distinct.itertuples(index=False, name=None))
        try:
            counts = count(rows, sorted(set(rows['group'])), classes)
        except ValueError as error:
            raise ValueError(f'{where}{member}: {error}') from error
        found[str(member)] = CaseCounts(pairs, counts)
    return found


def seed_scores(record: SuiteRecord) -> pd.DataFrame:
    """Compute all measures of a suite for each finished run, seed, checkpoint and member.

    Returns:
        Columns ``run, mode, style, seed, checkpoint, member, measure, value``, in percent.

    Raises:
        ValueError: See :func:`count_cases` and :meth:`Counts.scores`.
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
    """Return the names of runs with a mode and style by variant of the suite, then by these.

    The variant is the part of a run's name before the last ``/``, or ``''``.

    Raises:
        ValueError: If two runs of a variant have the same mode and style.
    """
    found: Variants = {}
    for run in record.runs:
        if run.mode not in MODES or run.style not in STYLES:
            continue
        variant = run.name.rpartition('/')[0]
        name = found.setdefault(variant, {}).setdefault((run.mode, run.style), run.name)
        if name != run.name:
            raise ValueError(
                f'Invalid suite {record.name}: expected one run of {run.mode} {run.style} in each '
                f'variant, got {name!r} and {run.name!r}. Make them variants in the suite file, '
                f'e.g. {"a/" + name!r} and {"b/" + run.name!r}'
            )
    return found
