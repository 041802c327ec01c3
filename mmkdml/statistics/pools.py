"""Seeds that runs share, and their variance over seeds, pooled over the runs of a suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.counts import Counts, Entry
from mmkdml.statistics.differences import SeedVariance, pool_seeds

Pair = tuple[Entry, Entry | None]
"""A difference of two entries, or a mean of one."""

_POOLS = {ENSEMBLE: ENSEMBLE, PLAIN: ENSEMBLE, TEACHER: TEACHER}  # all others are students
_Pool = tuple[tuple[str, ...], tuple[int, ...], frozenset, bool]


def shared_seeds(counts: Counts, entries: Sequence[Entry]) -> tuple[tuple[int, ...], str]:
    """Return the seeds that all entries have, and why entries are not comparable, if so."""
    for name, member in entries:
        if (name, member) not in counts.by_entry:
            return (), f'no finished run of {name} has a member {member}'
    seeds = {entry: set(counts.by_entry[entry]) for entry in entries}
    shared = tuple(sorted(set.intersection(*seeds.values())))
    if not shared:
        each = ', '.join(f'{name} has {sorted(seeds[name, member])}' for name, member in entries)
        return (), f'no seed is shared: {each}'
    first = counts.by_entry[entries[0]][shared[0]].cases
    for name, member in entries:
        for seed in shared:
            cases = counts.by_entry[name, member][seed].cases
            if cases is not first and (differing := len(cases ^ first)):
                return shared, (
                    f'{entries[0][0]} (seed {shared[0]}) and {name} (seed {seed}) were tested on '
                    f'different cases: {differing} are in only one of them'
                )
    return shared, ''


class SeedPools:
    """Seed variances of one measure, see :func:`~.bootstrap.estimate`; each is computed once.

    Args:
        counts: Counts of a suite.
        scores: Result of :meth:`~.counts.Counts.scores`.
    """

    def __init__(self, counts: Counts, scores: Mapping[Entry, Mapping[int, float]]) -> None:
        self._counts, self._scores = counts, scores
        self._pools: dict[_Pool, SeedVariance | None] = {}

    def pooled(self, pair: Pair, seeds: tuple[int, ...], cases: frozenset) -> SeedVariance | None:
        """Pool the seed variance of a mean or difference over the runs of the suite."""
        entry, other = pair
        if other is not None and entry[0] == other[0]:
            # Members of one run vary together, so their difference is pooled.
            return self._pool((entry[1], other[1]), seeds, cases, True)
        total = None
        for _, member in filter(None, pair):
            kind = (_POOLS.get(member, 'student'),)
            if (pool := self._pool(kind, seeds, cases, other is None)) is None:
                return None
            total = pool if total is None else total + pool
        return total

    def _pool(
        self, of: tuple[str, ...], seeds: tuple[int, ...], cases: frozenset, shared: bool
    ) -> SeedVariance | None:
        """Pool the seed variance of a kind of members, or of the difference of two members.

        None if there are fewer than two runs with the cases and seeds.
        """
        key = of, seeds, cases, shared
        if key not in self._pools:
            rows = {}
            for entries in self._comparable(of, seeds, cases):
                values = [
                    np.array([self._scores[entry][seed] for seed in seeds]) for entry in entries
                ]
                row = values[0] - values[1] if len(of) == 2 else values[0]
                if np.isfinite(row).all():
                    digests = tuple(
                        self._counts.by_entry[entry][seed].digest
                        for entry in entries
                        for seed in seeds
                    )
                    rows[tuple(row), digests] = entries[0][0]
            runs = len(set(rows.values()))
            self._pools[key] = None
            if min(runs, len(seeds)) > 1:
                pooled = pool_seeds(np.array([row for row, _ in rows]), shared)
                # Members of one run are not independent.
                df = (runs - 1) * (len(seeds) - 1)
                self._pools[key] = replace(pooled, df=df, runs=runs)
        return self._pools[key]

    def _comparable(
        self, of: tuple[str, ...], seeds: tuple[int, ...], cases: frozenset
    ) -> Iterator[tuple[Entry, ...]]:
        """Yield entries of a kind, or pairs of two members of a run, tested on the same cases."""
        by_entry = self._counts.by_entry
        for run, member in by_entry:
            entries: tuple[Entry, ...] = ((run, member),)
            if len(of) == 2:
                entries = (run, of[0]), (run, of[1])
            wanted = member == of[0] if len(of) == 2 else _POOLS.get(member, 'student') == of[0]
            if wanted and all(
                entry in by_entry
                and seed in by_entry[entry]
                and (by_entry[entry][seed].cases is cases or by_entry[entry][seed].cases == cases)
                for entry in entries
                for seed in seeds
            ):
                yield entries
