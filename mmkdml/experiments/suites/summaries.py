"""Summaries of results, from which tables, statistics and reports are computed.

A summary has parts, so that a command reads only what it needs. ``scores`` are metrics and total
counts, ``counts/<checkpoint>`` the counts by group of cases; ``curves`` and ``metadata`` are those
of the result. It is computed when a run ends, or when a suite of an earlier version is read.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mmkdml.experiments.run_spec import run_key
from mmkdml.experiments.suites.serialization import deserialize_result
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.files import json_text
from mmkdml.statistics.counts import CaseCounts, Summary, count_members
from mmkdml.statistics.records import NO_CURVES, Logged, Measurement, lazily
from mmkdml.statistics.stored import Arrays, Cases, StoredCounts, pack, summarize_cases, unpack

# Prefix of the names of all parts. Increase it when the content of summaries changes.
VERSION = 1
SCORES, COUNTS, CURVES, METADATA = 'scores', 'counts', 'curves', 'metadata'
_CHUNK = 100  # runs that are read at once
_KEPT = 64  # unpacked runs
_RESULTS = 4  # complete results
_EMPTY = np.empty(0)

Key = tuple[str, int]
"""Name and seed of a run."""

Result = tuple[dict[str, Measurement], pd.DataFrame, dict[str, Any]]


def summarize_result(
    measured: Mapping[str, Measurement], curves: pd.DataFrame, metadata: Mapping[str, Any]
) -> dict[str, bytes]:
    """Summarize a deserialized result; empty if its case tables are invalid."""
    heads, parts = {}, {}
    try:
        for checkpoint, one in measured.items():
            head, parts[f'{COUNTS}/{checkpoint}'] = summarize_cases(one.cases)
            heads[checkpoint] = head | dict(metrics=dict(one.metrics))
    except ValueError:  # raised again, with the name of the run, by those who use the case tables
        return {}
    codes, keys = pd.factorize(curves['key'])
    if len(curves):
        epoch, value = (curves[name].to_numpy() for name in ('epoch', 'value'))
        parts[CURVES] = pack(dict(codes=codes, epoch=epoch, value=value))
    parts[SCORES] = _compressed(dict(measured=heads, curves=list(keys)))
    parts[METADATA] = _compressed(metadata)
    return {_part(name): content for name, content in parts.items()}


def _part(name: str) -> str:
    return f'{VERSION}/{name}'


def _compressed(content: Mapping[str, Any]) -> bytes:
    return zlib.compress(json_text(content).encode())


def _content(content: bytes) -> dict[str, Any]:
    return json.loads(zlib.decompress(content))


class Summaries:
    """Results of the finished runs of a suite, of which few are in memory at any time.

    Missing summaries are computed from the results, and stored if the database allows it.

    Args:
        store: Database of the suite.
        keys: Names and seeds of the finished runs, in the order in which they will be read.

    Raises:
        ValueError: If a result without a summary is damaged.
    """

    def __init__(self, store: SuiteStore, keys: Sequence[Key]) -> None:
        self._store, self._keys = store, list(keys)
        self._places = {key: place for place, key in enumerate(self._keys)}
        self._heads: dict[Key, dict[str, Any]] = {}
        self._chunks: OrderedDict[tuple[str, int], dict[Key, bytes]] = OrderedDict()
        self._unpacked: OrderedDict[tuple[str, Key], Arrays] = OrderedDict()
        self._results: OrderedDict[Key, Result] = OrderedDict()
        self._cases: dict[str, Cases] = {}
        self._unsaved: dict[tuple[str, Key], bytes] = {}
        if store.has_summaries():
            for key, content in store.summaries(_part(SCORES)).items():
                if key in self._places:
                    with suppress(zlib.error, ValueError):  # damaged: replaced below
                        self._heads[key] = _content(content)
        self._fill([key for key in self._keys if key not in self._heads])

    def _fill(self, missing: Sequence[Key]) -> None:
        for start in range(0, len(missing), _CHUNK):
            found = {}
            for key in missing[start : start + _CHUNK]:
                if summary := summarize_result(*self.result(key)):
                    found[key] = summary
                    self._heads[key] = _content(summary[_part(SCORES)])
            try:
                # Do not wait for the lock of a database again.
                if found and not self._unsaved:
                    self._store.add_summaries(found)
                    continue
            except ValueError:  # read-only: they are computed again by the next command
                pass
            for key, summary in found.items():
                self._unsaved |= {(part, key): one for part, one in summary.items()}

    def result(self, key: Key) -> Result:
        """Load the complete result of a run."""

        def load() -> Result:
            try:
                return deserialize_result(self._store.result(*key))
            except ValueError as error:
                raise ValueError(
                    f'{self._store.url}: result of {key[0]}, seed {key[1]}: {error}'
                ) from error

        return _kept(self._results, key, load, _RESULTS)

    def metadata(self, key: Key) -> dict[str, Any]:
        """Load the metadata of a run."""
        if key not in self._heads:
            return self.result(key)[2]
        return _content(self._read(METADATA, key))

    def curves(self, key: Key) -> pd.DataFrame:
        """Load the curves of a run."""
        if key not in self._heads:
            return self.result(key)[1]
        keys, codes, epoch, value = self._logged(key)
        if not keys:
            return NO_CURVES
        names = pd.array(keys, dtype='str').take(codes)
        return pd.DataFrame(dict(epoch=epoch.copy(), key=names, value=value.copy()))

    def curve_loaders(self, key: Key) -> tuple[dict[str, Any], dict[str, Callable[[], Any]]]:
        """Return what is known of the curves of a run, and functions that load the rest."""
        loaders: dict[str, Callable[[], Any]] = dict(curves=partial(self.curves, key))
        if key not in self._heads:
            return {}, loaders
        known = dict(curve_keys=self._heads[key]['curves'])
        return known, loaders | dict(logged=partial(self._logged, key))

    def _logged(self, key: Key) -> Logged:
        keys = self._heads[key]['curves']
        arrays = unpack(self._read(CURVES, key)) if keys else {}
        codes, epoch, value = (arrays.get(one, _EMPTY) for one in ('codes', 'epoch', 'value'))
        return keys, codes, epoch, value

    def measured(self, key: Key) -> dict[str, Measurement]:
        """Return the measurements of a run, whose case tables are loaded when they are used."""
        if key not in self._heads:
            return self.result(key)[0]
        found = {}
        for checkpoint, head in self._heads[key]['measured'].items():
            metrics = {
                name: math.nan if value is None else value
                for name, value in head['metrics'].items()
            }
            members = partial(self._members, key, checkpoint)
            summary = Summary(head['task'], head['classes'], head['measures'], members)
            found[checkpoint] = lazily(
                Measurement,
                dict(metrics=metrics, summary=summary),
                dict(cases=partial(self._case_table, key, checkpoint)),
            )
        return found

    def _case_table(self, key: Key, checkpoint: str) -> pd.DataFrame:
        return self.result(key)[0][checkpoint].cases

    def _members(
        self, key: Key, checkpoint: str, classes: int, where: str
    ) -> dict[str, CaseCounts]:
        head = self._heads[key]['measured'][checkpoint]

        def count(member: str) -> CaseCounts:
            cases = self._case_table(key, checkpoint)
            own = cases[cases['member'] == member]
            return count_members(own, classes, where)[member]

        scored = any('ranked' in one for one in head['members'].values())
        if scored and classes != head['classes']:  # an error
            return count_members(self._case_table(key, checkpoint), classes, where)
        return {
            member: StoredCounts(
                self._tested(one['cases'], partial(count, member)),
                one,
                classes,
                partial(self._counts, key, checkpoint, member),
                partial(count, member),
            )
            for member, one in head['members'].items()
        }

    def _tested(self, digest: str, load: Callable[[], CaseCounts]) -> Cases:
        """Return the tested cases with a digest; most runs have the same."""
        if digest not in self._cases:
            self._cases[digest] = load().cases
        return self._cases[digest]

    def _counts(self, key: Key, checkpoint: str, member: str) -> np.ndarray:
        part = f'{COUNTS}/{checkpoint}'
        arrays = _kept(self._unpacked, (part, key), lambda: unpack(self._read(part, key)), _KEPT)
        return arrays[member]

    def _read(self, part: str, key: Key) -> bytes:
        """Read a part of a summary, with those of the next runs."""
        name = _part(part)
        if (name, key) in self._unsaved:
            return self._unsaved[name, key]
        place = self._places[key] // _CHUNK

        def load() -> dict[Key, bytes]:
            return self._store.summaries(name, self._keys[place * _CHUNK : (place + 1) * _CHUNK])

        chunk = _kept(self._chunks, (name, place), load, 8)
        if key not in chunk:
            raise ValueError(
                f'{self._store.url}: the summary of {run_key(*key)} has no part {name}. Run the '
                'command again'
            )
        return chunk[key]


def _kept(kept: OrderedDict[Any, Any], key: Any, load: Callable[[], Any], most: int) -> Any:
    """Return a value that was used before, or load it and drop the least recently used one."""
    if key not in kept:
        kept[key] = load()
        while len(kept) > most:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
