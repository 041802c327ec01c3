"""Loading of a suite's results from its database for tables, statistics and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mmkdml.experiments.suites.folds import pool_folds
from mmkdml.experiments.suites.serialization import deserialize_result
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.statistics.records import BASELINE, COMPARISON, NO_CURVES, RunRecord, SuiteRecord


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

    Raises:
        ValueError: If a result or the settings of a run in the database are damaged.
    """
    results = {}
    for name, seed, content in store.results():
        try:
            results[name, seed] = deserialize_result(content)
        except ValueError as error:
            raise ValueError(f'{store.url}: result of {name}, seed {seed}: {error}') from error
    settings = store.settings()
    name_of = {run.name: run.run if pool else run.name for run in suite.runs}
    names = list(dict.fromkeys(name_of.values()))
    specs = {(run.name, run.seed): run for run in suite.runs}
    by_run: dict[tuple[str, int], list[RunRecord]] = {}
    for state in store.states():
        spec = specs.get((state.name, state.seed))
        if spec is None or (pool and spec.without is not None):
            continue
        measured, curves, metadata = results.get((state.name, state.seed), ({}, NO_CURVES, {}))
        try:
            model = _SETTINGS.validate_json(settings[state.name]).model
        except ValueError as error:
            raise ValueError(
                f'{store.url}: the settings of {state.name} are damaged: {error}'
            ) from error
        mode = model.mode or (BASELINE if model.members is None else COMPARISON)
        pictures = _pictures(suite.work_dir / state.key)
        by_run.setdefault((name_of[spec.name], spec.seed), []).append(
            RunRecord(
                state.name, state.seed, mode, model.style, state.state, state.error,
                measured, curves, metadata, pictures,
            )
        )  # fmt: skip
    records = [
        pool_folds(name, parts, suite.folds) if pool and suite.folds else parts[0]
        for (name, _), parts in by_run.items()
    ]
    records.sort(key=lambda run: names.index(run.name))  # stable: seeds keep their order
    pictures = _pictures(suite.work_dir)
    return SuiteRecord(
        suite.name, suite.title, suite.measures, suite.paper_tables, records, pictures, suite.claims
    )


def _pictures(folder: Path) -> dict[str, Path]:
    """Find pictures of hooks and analysis tools by relative path."""
    return {
        path.relative_to(folder).as_posix(): path
        for pattern in _PICTURES
        for path in sorted(folder.glob(pattern))
    }
