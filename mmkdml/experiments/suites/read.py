"""Loading of a suite's results from its database for tables, statistics and reports."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mmkdml.experiments.suites.folds import pool_folds
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.experiments.suites.summaries import Summaries
from mmkdml.statistics.records import (
    BASELINE,
    COMPARISON,
    DONE,
    NO_CURVES,
    RunRecord,
    SuiteRecord,
    lazily,
)


@dataclass
class _Model:
    mode: str = ''
    style: str = ''
    members: Any = None


@dataclass
class _Settings:
    model: _Model


_SETTINGS = TypeAdapter(_Settings)
_PICTURES = ('panels/*.png', 'calibration/reliability.png', 'analysis/**/*.png')


def read_suite(suite: Suite, store: SuiteStore, pool: bool = True) -> SuiteRecord:
    """Read the records of all runs of a suite, finished or not.

    Args:
        suite: The suite.
        store: Its database.
        pool: Pool the folds of each run with ``pool_folds``, and leave out the teachers
            of other folds.

    Returns:
        The records. Case tables, curves, metadata and pictures are loaded when they are used, so
        that suites of thousands of runs fit in memory.

    Raises:
        ValueError: If a result or the settings of a run in the database are damaged.
    """
    specs = {(run.name, run.seed): run for run in suite.runs}
    states = [
        state
        for state in store.states()
        if (spec := specs.get((state.name, state.seed))) and not (pool and spec.without is not None)
    ]
    places = {
        name: place for place, name in enumerate(dict.fromkeys(run.run for run in suite.runs))
    }
    states.sort(key=lambda state: places[specs[state.name, state.seed].run])  # seeds keep theirs
    done = [(state.name, state.seed) for state in states if state.state == DONE]
    summaries = Summaries(store, done)
    models = _models(store, {state.name for state in states})
    by_run: dict[tuple[str, int], list[RunRecord]] = {}
    for state in states:
        spec, key = specs[state.name, state.seed], (state.name, state.seed)
        mode, style = models[state.name]
        known = dict(
            name=state.name, seed=state.seed, mode=mode, style=style, state=state.state,
            error=state.error, folds=1,
        )  # fmt: skip
        loaders: dict[str, Callable[[], Any]] = dict(
            pictures=cache(partial(_pictures, suite.work_dir / state.key))
        )
        if state.state == DONE:
            known_curves, curve_loaders = summaries.curve_loaders(key)
            known |= known_curves | dict(measured=summaries.measured(key))
            loaders |= curve_loaders | dict(metadata=cache(partial(summaries.metadata, key)))
        else:
            known |= dict(measured={}, curves=NO_CURVES, metadata={})
        name = spec.run if pool else spec.name
        by_run.setdefault((name, spec.seed), []).append(lazily(RunRecord, known, loaders))
    records = [
        pool_folds(name, parts, suite.folds) if pool and suite.folds else parts[0]
        for (name, _), parts in by_run.items()
    ]
    if not pool:  # folds of one run are not next to each other in the suite
        order = {
            name: place for place, name in enumerate(dict.fromkeys(r.name for r in suite.runs))
        }
        records.sort(key=lambda run: order[run.name])
    pictures = _pictures(suite.work_dir)
    return SuiteRecord(
        suite.name, suite.title, suite.measures, suite.paper_tables, records, pictures, suite.claims
    )


def _models(store: SuiteStore, names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return mode and style of each run by name, from the settings."""
    found = {}
    for name, text in store.settings().items():
        if name not in names:
            continue
        try:
            model = _SETTINGS.validate_json(text).model
        except ValueError as error:
            raise ValueError(f'{store.url}: the settings of {name} are damaged: {error}') from error
        mode = model.mode or (BASELINE if model.members is None else COMPARISON)
        found[name] = mode, model.style
    return found


def _pictures(folder: Path) -> dict[str, Path]:
    """Find pictures of hooks and analysis tools by relative path."""
    return {
        path.relative_to(folder).as_posix(): path
        for pattern in _PICTURES
        for path in sorted(folder.glob(pattern))
    }
