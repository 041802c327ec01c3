"""Progress of a suite on the console: a line per finished run, and a live bar on a terminal."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from mmkdml.console import OverallProgress
from mmkdml.experiments.database import UnavailableError
from mmkdml.experiments.suites.execution.progress import seconds_left, work_left
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.names import ENSEMBLE
from mmkdml.statistics.counts import count_members
from mmkdml.statistics.measures import MEASURES, class_count, measures_of
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING, Measurement


class SuiteDisplay:
    """Prints what the workers of a suite do; several threads may call it.

    Args:
        suite: The suite.
        store: Its database, which other workers use, too.
        log: Function that prints a line. Default: the console, above the bar.
    """

    def __init__(
        self, suite: Suite, store: SuiteStore, log: Callable[[str], None] | None = None
    ) -> None:
        self._suite, self._store = suite, store
        counts = store.counts()
        self._bar = OverallProgress(counts.total(), 'runs', counts[DONE])
        self._log = log or self._bar.console.line
        self._lock = threading.Lock()
        self._best = -math.inf
        self._note = ''
        # Runs that are done and left, and the estimated duration of the latter.
        self._work: tuple[tuple[int, int], float | None] = (0, 0), None

    def __enter__(self) -> SuiteDisplay:
        runs, folder = self._bar.total, self._suite.work_dir
        names = len({run.run for run in self._suite.runs})
        self._log(f'{self._suite.title}: {runs} runs of {names} configs, in {folder}')
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)

    def line(self, text: str) -> None:
        """Print a line about a run."""
        with self._lock:
            self._log(text)
            self._refresh()

    def note(self, text: str) -> None:
        """Print a line without reading the database, which may be unavailable."""
        self._log(text)

    def started(self) -> None:
        """Update the bar when a run starts."""
        with self._lock:
            self._refresh()

    def finished(self, key: str, measured: Measurement, duration: str) -> None:
        """Print the line of a finished run, and whether it is the best so far."""
        with self._lock:
            self._refresh()
            measure = self._suite.measures[0]
            value = test_score(measured, measure)
            best = ''
            sign = -1 if MEASURES[measure].info.higher_is_better is False else 1
            if len(self._suite.runs) > 1 and sign * value > self._best:
                self._best, best = sign * value, ', best so far'
                self._note = f'best {measure} {value:.2f}: {key}'
            score = f'{measure} {value:6.2f}' if math.isfinite(value) else f'{measure} undefined'
            self._log(f'{key:<20} {score}{best}; {duration}; {self._bar.text()}')
            self._refresh()

    def _refresh(self) -> None:
        try:
            counts = self._store.counts(retry=False)
            runs = counts[DONE], counts[WAITING] + counts[RUNNING]
            if runs != self._work[0]:  # reads all rows
                self._work = runs, work_left(self._store.groups(retry=False))
        except UnavailableError:  # the worker retries
            return
        failed, running = counts[FAILED], counts[RUNNING]
        note = ', '.join(
            text
            for text in (
                f'{running} running' if running else '',
                f'{failed} failed' if failed else '',
                self._note,
            )
            if text
        )
        left = seconds_left(self._work[1], counts, idle=int(not running))
        self._bar.advance(counts[DONE], left, note)


def test_score(measured: Measurement, measure: str) -> float:
    """Compute a measure of the ensemble, or of the only network, on the test split.

    Returns:
        In the measure's unit; NaN if it is undefined or belongs to another task.
    """
    cases = measured.cases
    if cases.empty or measure not in measures_of(cases):
        return math.nan
    members = list(cases['member'].unique())
    own = cases[cases['member'] == (ENSEMBLE if ENSEMBLE in members else members[0])]
    (counts,) = count_members(own, class_count(cases)).values()
    return float(MEASURES[measure].value(counts.total()))
