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


def read_suite(suite: Suite, store: SuiteStore) -> SuiteRecord:
    """Read the records of all runs of a suite, finished or not, with their folds pooled.

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
    names = list(dict.fromkeys(run.run for run in suite.runs))
    specs = {(run.name, run.seed): run for run in suite.runs}
    by_run: dict[tuple[str, int], list[RunRecord]] = {}
    for state in store.states():
        if (spec := specs.get((state.name, state.seed))) is None:
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
        by_run.setdefault((spec.run, spec.seed), []).append(
            RunRecord(
                state.name, state.seed, mode, model.style, state.state, state.error,
                measured, curves, metadata, pictures,
            )
        )  # fmt: skip
    has_folds = any(run.fold is not None for run in suite.runs)
    records = [
        pool_folds(name, parts) if has_folds else parts[0] for (name, _), parts in by_run.items()
    ]
    records.sort(key=lambda run: names.index(run.name))  # stable: seeds keep their order
    pictures = _pictures(suite.work_dir)
    return SuiteRecord(
        suite.name, suite.title, suite.measures, suite.paper_tables, records, pictures
    )


def _pictures(folder: Path) -> dict[str, Path]:
    """Find pictures of hooks and analysis tools by relative path."""
    return {
        path.relative_to(folder).as_posix(): path
        for pattern in _PICTURES
        for path in sorted(folder.glob(pattern))
    }
