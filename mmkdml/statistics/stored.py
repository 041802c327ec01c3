"""Counts of a run in a compact form that is stored when the run ends, and read for statistics."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from mmkdml.names import SCORE
from mmkdml.statistics.counts import CaseCounts, Summary, count_members, groups_of
from mmkdml.statistics.measures import DETECTION, Measure, class_count, measures_of, task_of_cases
from mmkdml.statistics.ranking import Scored, Sums

Cases = frozenset[tuple[str, str]]
Arrays = dict[str, np.ndarray]


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Compress arrays of numbers."""
    head = [(name, one.dtype.str, one.shape) for name, one in arrays.items()]
    parts = (np.ascontiguousarray(one).tobytes() for one in arrays.values())
    return zlib.compress(json.dumps(head).encode() + b'\n' + b''.join(parts))


def unpack(content: bytes) -> Arrays:
    """Read the arrays of :func:`pack`.

    Raises:
        ValueError: If the content is damaged.
    """
    try:
        head, _, rest = zlib.decompress(content).partition(b'\n')
        arrays, start = {}, 0
        for name, kind, shape in json.loads(head):
            size = math.prod(shape)
            flat = np.frombuffer(rest, kind, size, start)
            arrays[name] = flat.reshape(shape)
            start += flat.nbytes
        return arrays
    except (zlib.error, TypeError, ValueError) as error:
        raise ValueError(f'damaged summary of a run ({type(error).__name__}: {error})') from error


def summarize_cases(cases: pd.DataFrame) -> tuple[dict[str, Any], bytes]:
    """Summarize a case table.

    Returns:
        What tables need: task, classes, measures, and by member the totals over all
        cases, a digest of the predictions and one of the cases. What statistics need: the counts by
        group of each member, for :func:`unpack`. Scores of classes and detected boxes are not
        contained, because they are as large as the case table.
    """
    classes = class_count(cases)
    members, arrays = {}, {}
    for name, one in count_members(cases, classes).items():
        total = one.total()
        content: dict[str, Any] = dict(digest=one.digest, cases=digest_of(one.cases))
        if callable(total):
            content |= dict(total=total(False), ranked=total(True))
        else:
            content |= dict(total=total)
        members[name] = content
        # Of scored cases without the squared errors.
        if isinstance(one.counts, Scored):
            arrays[name] = _narrow(one.counts.counts[:, :3])
        elif isinstance(one.counts, np.ndarray):
            arrays[name] = _narrow(one.counts)
    task = task_of_cases(cases)
    head = dict(task=task, classes=classes, measures=measures_of(cases), members=members)
    return head, pack(arrays)


def _narrow(counts: np.ndarray) -> np.ndarray:
    """Return counts in the smallest type of integers; other numbers are not changed."""
    if not ((counts >= 0) & (counts == np.floor(counts)) & (counts < 2**53)).all():
        return counts
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def digest_of(cases: Cases) -> str:
    """Return a digest of the tested cases."""
    text = json.dumps(sorted(cases))
    return hashlib.blake2b(text.encode(errors='surrogatepass'), digest_size=16).hexdigest()


class StoredCounts(CaseCounts):
    """Counts whose totals are known; those by group are loaded when they are used.

    Args:
        cases: The tested cases.
        head: Content of the member in :func:`summarize_cases`.
        classes: Number of classes, at least that of the stored counts.
        load: Loads the stored counts by group.
        load_all: Counts the case table of the run, which is slow.
    """

    _own: tuple[Any, ...]

    def __init__(
        self,
        cases: Cases,
        head: Mapping[str, Any],
        classes: int,
        load: Callable[[], np.ndarray],
        load_all: Callable[[], CaseCounts],
    ) -> None:
        self.__dict__.update(cases=cases, _own=(head, classes, load, load_all))

    def with_cases(self, cases: Cases) -> StoredCounts:
        """See :meth:`CaseCounts.with_cases`."""
        return StoredCounts(cases, *self._own)

    @property
    def digest(self) -> str:
        """See :attr:`CaseCounts.digest`."""
        return self._own[0]['digest']

    def total(self) -> np.ndarray | Sums:
        """See :meth:`CaseCounts.total`."""
        head, classes, *_ = self._own
        total = np.array(head['total'], float)
        if total.ndim < 2:  # of detections
            return total
        total = _padded(total, classes)
        if 'ranked' not in head:
            return total
        ranked = np.array(head['ranked'], float)
        return lambda wanted: ranked if wanted else total

    def for_measure(self, measure: Measure) -> CaseCounts:
        """Load the counts by group that a measure needs."""
        head, classes, load, load_all = self._own
        if DETECTION in measure.tasks or measure.column == SCORE:
            return load_all()
        counts: Any = _padded(load().astype(float, copy=False), classes)
        return CaseCounts(self.cases, _without_scores(counts) if 'ranked' in head else counts)


class PooledCounts(CaseCounts):
    """Counts of all folds of a run.

    Args:
        parts: Counts of the folds, none of which share a case.
        load_all: Counts the case tables of all folds, which is slow.
    """

    _own: tuple[Any, ...]

    def __init__(self, parts: Sequence[CaseCounts], load_all: Callable[[], CaseCounts]) -> None:
        self._set(_union(tuple(one.cases for one in parts)), parts, load_all)

    def _set(self, cases: Cases, *own: Any) -> None:
        self.__dict__.update(cases=cases, _own=own)

    def with_cases(self, cases: Cases) -> PooledCounts:
        """See :meth:`CaseCounts.with_cases`."""
        pooled = object.__new__(PooledCounts)
        pooled._set(cases, *self._own)
        return pooled

    @property
    def digest(self) -> str:
        """See :attr:`CaseCounts.digest`."""
        digests = [one.digest for one in self._own[0]]
        return ' '.join(digests) if all(digests) else ''

    def total(self) -> np.ndarray | Sums:
        """See :meth:`CaseCounts.total`."""
        parts, load_all = self._own
        totals = [one.total() for one in parts]
        if callable(totals[0]):
            summed = sum(one(False) for one in totals)
            return lambda ranked: load_all().total()(True) if ranked else summed
        return load_all().total() if totals[0].ndim < 2 else sum(totals)

    def for_measure(self, measure: Measure) -> CaseCounts:
        """Load the counts by group that a measure needs."""
        parts, load_all = self._own
        if DETECTION in measure.tasks or measure.column == SCORE:
            return load_all()
        loaded = [one.for_measure(measure) for one in parts]
        scored = isinstance(loaded[0].counts, Scored)
        arrays = [one.counts.counts if scored else one.counts for one in loaded]
        groups = pd.Index(groups_of(self.cases))
        counts = np.zeros((len(groups), *arrays[0].shape[1:]))
        for one, own in zip(parts, arrays, strict=True):
            counts[groups.get_indexer(groups_of(one.cases))] += own
        return CaseCounts(self.cases, _without_scores(counts) if scored else counts)


def pool_summaries(summaries: Sequence[Summary], load_cases: Callable[[], pd.DataFrame]) -> Summary:
    """Pool the summaries of all folds of a run, which have one task and the same measures.

    Args:
        summaries: Summaries of the folds, none of which share a case.
        load_cases: Loads the case tables of all folds.
    """

    def members(classes: int, where: str) -> dict[str, CaseCounts]:
        def count(member: str) -> CaseCounts:
            cases = load_cases()
            return count_members(cases[cases['member'] == member], classes, where)[member]

        parts: dict[str, list[CaseCounts]] = {}
        for summary in summaries:
            for member, counts in summary.members(classes, where).items():
                parts.setdefault(member, []).append(counts)
        return {name: PooledCounts(own, partial(count, name)) for name, own in parts.items()}

    first, classes = summaries[0], max(one.classes for one in summaries)
    return Summary(first.task, classes, first.measures, members)


@lru_cache(maxsize=64)
def _union(parts: tuple[Cases, ...]) -> Cases:
    return frozenset().union(*parts)


def _without_scores(counts: np.ndarray) -> Scored:
    return Scored(counts, *np.empty((3, 0)))


def _padded(counts: np.ndarray, classes: int) -> np.ndarray:
    """Add classes that do not occur to the last dimension."""
    missing = classes - counts.shape[-1]
    if not missing:
        return counts
    return np.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(0, missing)])
