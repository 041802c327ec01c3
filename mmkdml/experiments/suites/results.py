"""From a suite's database to the records that tables, statistics and reports are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mmkdml.experiments.suites.execute import settings_text
from mmkdml.experiments.suites.serialization import unpack_result
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.experiments.suites.worker import work_together
from mmkdml.statistics.records import BASELINE, COMPARISON, RunRecord, SuiteRecord


@dataclass(frozen=True)
class _Model:
    mode: str = ''
    style: str = ''
    members: Any = None


@dataclass(frozen=True)
class _Settings:
    model: _Model


_SETTINGS = TypeAdapter(_Settings)
_PICTURES = ('panels/panels.png', 'calibration/reliability.png', 'analysis/**/*.png')


def run_suite(
    suite: Suite, store: SuiteStore, workers: int = 1, processes: int = 1, retry: bool = False
) -> None:
    """Makes what is not done of a suite; see :func:`~.worker.work_together`.

    Args:
        suite: The suite.
        store: Its database.
        workers: How many runs at a time.
        processes: Processes of each run.
        retry: Make failed runs again.

    Raises:
        KeyboardInterrupt: If it was stopped.
        ValueError: If a config cannot be used, the suite was started with other settings, or the
            database cannot be used.
    """
    settings = {}
    for run in suite.runs:
        if run.name not in settings:
            settings[run.name] = settings_text(run)
    store.register(suite.runs, settings)
    if retry:
        store.retry_failed()
    work_together(suite, store, workers, processes)


def read_suite(suite: Suite, store: SuiteStore) -> SuiteRecord:
    """Everything that is known of a suite's runs, done or not.

    Raises:
        ValueError: If a result or the settings of a run in the database are damaged.
    """
    results = {}
    for name, seed, content in store.results():
        try:
            results[name, seed] = unpack_result(content)
        except ValueError as error:
            raise ValueError(
                f'{store.url}: the result of {name}, seed {seed}, is {error}'
            ) from error
    settings = store.settings()
    specs = {(run.name, run.seed): run for run in suite.runs}
    records = []
    for state in store.states():
        if (state.name, state.seed) not in specs:
            continue
        measured, curves, metadata = results.get((state.name, state.seed), ({}, None, {}))
        try:
            model = _SETTINGS.validate_json(settings[state.name]).model
        except ValueError as error:
            raise ValueError(
                f'{store.url}: the settings of {state.name} are damaged: {error}'
            ) from error
        mode, style = _kind(model)
        record = RunRecord(
            state.name, state.seed, mode, style, state.state, state.error, measured,
            metadata=metadata, pictures=_pictures(suite.work_dir / state.key),
        )  # fmt: skip
        records.append(record if curves is None else replace(record, curves=curves))
    order = {
        name: place for place, name in enumerate(dict.fromkeys(run.name for run in suite.runs))
    }
    records.sort(key=lambda run: order[run.name])  # stable: seeds stay in order
    return SuiteRecord(
        suite.name,
        suite.title,
        suite.measures,
        suite.paper_tables,
        records,
        _pictures(suite.work_dir),
    )


def _pictures(folder: Path) -> dict[str, Path]:
    """What hooks and tools of analysis drew; a sheet stands for the panels it is made of."""
    return {
        path.relative_to(folder).as_posix(): path
        for pattern in _PICTURES
        for path in sorted(folder.glob(pattern))
    }


def _kind(model: _Model) -> tuple[str, str]:
    """Mode and style of a model's config."""
    return model.mode or (BASELINE if model.members is None else COMPARISON), model.style
