"""Pooling of the folds of a run: one record with the out-of-fold predictions of all cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from mmkdml.names import fold_folder
from mmkdml.statistics.counts import Summary
from mmkdml.statistics.records import (
    DONE,
    FAILED,
    NO_CURVES,
    RUNNING,
    WAITING,
    Measurement,
    RunRecord,
    lazily,
)
from mmkdml.statistics.stored import pool_summaries


def pool_folds(name: str, folds: Sequence[RunRecord], number: int | None = None) -> RunRecord:
    """Pool the records of all folds of a run with one seed.

    Every case is tested once, in the fold that was not trained on it, so the case tables are
    concatenated. Metrics of the evaluator and curves are means over the folds. Metadata are those
    of fold 0, but ``seconds`` is the sum, and ``splits`` has those of all folds. A run is done when
    all its folds are; until then ``error`` states how many are.

    Args:
        name: Name of the run without fold.
        folds: Records of its folds, fold 0 first.
        number: Number of folds. Default: that of the records.

    Raises:
        ValueError: If a case was tested in two folds.
    """
    first = folds[0]
    number = number or len(folds)
    states = [one.state for one in folds] + [WAITING] * (number - len(folds))
    state = next(one for one in (FAILED, RUNNING, WAITING, DONE) if one in states)
    if state == WAITING and DONE in states:
        state = RUNNING
    progress = f'{states.count(DONE)} of {number} folds done'
    failed = next((one for one in folds if one.error), None)
    error: str | None = None
    if failed is not None:
        text = str(failed.error).strip()
        last = text.rpartition('\n')[2]
        error = f'{failed.name} failed:\n{text}\n{progress}, {failed.name} failed: {last}'
    elif state == RUNNING:
        error = progress
    pooled = RunRecord(name, first.seed, first.mode, first.style, state, error, folds=number)
    if state != DONE:
        return replace(pooled, pictures=_pictures(folds))
    measured = {
        checkpoint: _pool(name, first.seed, [one.measured[checkpoint] for one in folds])
        for checkpoint in first.measured
        if all(checkpoint in one.measured for one in folds)
    }
    known = {one.name: getattr(pooled, one.name) for one in fields(pooled)} | dict(
        measured=measured
    )
    loaders: dict[str, Callable[[], Any]] = dict(
        curves=partial(_curves, folds),
        metadata=cache(partial(_metadata, folds)),
        pictures=cache(partial(_pictures, folds)),
    )
    return lazily(
        RunRecord, {key: one for key, one in known.items() if key not in loaders}, loaders
    )


def _curves(folds: Sequence[RunRecord]) -> pd.DataFrame:
    curves = pd.concat([one.curves for one in folds])
    if not len(curves):
        return NO_CURVES
    return curves.groupby(['epoch', 'key'], as_index=False)['value'].mean()


def _metadata(folds: Sequence[RunRecord]) -> dict[str, Any]:
    return {
        **folds[0].metadata,
        'seconds': sum(one.metadata.get('seconds', 0) for one in folds),
        'splits': {
            f'{fold_folder(fold)}/{part}': counts
            for fold, one in enumerate(folds)
            for part, counts in one.metadata.get('splits', {}).items()
        },
    }


def _pictures(folds: Sequence[RunRecord]) -> dict[str, Path]:
    return {
        f'{fold_folder(number)}/{path}': file
        for number, one in enumerate(folds)
        for path, file in one.pictures.items()
    }


def _pool(name: str, seed: int, folds: Sequence[Measurement]) -> Measurement:
    summaries = [one.summary for one in folds]
    if None in summaries or len({(one.task, *one.measures) for one in summaries}) > 1:
        summary = None
        tested = [set(_pairs(one.cases)) for one in folds]
    else:
        summary = pool_summaries(summaries, lambda: _cases(folds))
        tested = [_tested(one) for one in summaries]
    seen: set[tuple[str, str]] = set()
    for cases in tested:
        if twice := seen & cases:
            raise ValueError(
                f'Invalid folds of {name}, seed {seed}: expected each case in the test split of '
                f'one fold, got {min(twice)[0]!r} in two. Convert the data with --folds'
            )
        seen |= cases
    metrics = pd.DataFrame([dict(one.metrics) for one in folds])
    return lazily(
        Measurement,
        dict(metrics=metrics.mean(skipna=False).to_dict(), summary=summary),
        dict(cases=partial(_cases, folds)),
    )


def _tested(summary: Summary) -> set[tuple[str, str]]:
    return set().union(*(one.cases for one in summary.members(summary.classes, '').values()))


def _pairs(cases: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return cases[['id', 'group']].drop_duplicates().itertuples(index=False, name=None)


def _cases(folds: Sequence[Measurement]) -> pd.DataFrame:
    return pd.concat([one.cases for one in folds], ignore_index=True)
