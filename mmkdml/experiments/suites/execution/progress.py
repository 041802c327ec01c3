"""Progress of a suite."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from prettytable import PrettyTable

from mmkdml.apis.run.checkpoints import RunCheckpoints
from mmkdml.console import in_words
from mmkdml.experiments.suites.store import RunGroup, RunState
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

_FOLD = re.compile(r'/fold_\d+(_\d+)?$')


def progress(states: Sequence[RunState]) -> str:
    """Format the progress, e.g. ``12 of 42 done, 2 running, about 40 min left``.

    Args:
        states: All runs.
    """
    counts = Counter(run.state for run in states)
    text = f'{counts[DONE]} of {len(states)} done'
    text += ''.join(f', {counts[state]} {state}' for state in (FAILED, RUNNING) if counts[state])
    groups = [
        RunGroup(run.name, run.state, 1, int(run.seconds is not None), run.seconds or 0)
        for run in states
    ]
    seconds = seconds_left(work_left(groups), counts)
    return text if seconds is None else f'{text}, about {in_words(seconds)} left'


def state_table(states: Sequence[RunState], work_dir: Path) -> str:
    """Format a table of all runs with their state, duration, and newest checkpoint or error.

    Args:
        states: All runs.
        work_dir: Folder of the suite.
    """
    rows = PrettyTable(['run', 'seed', 'state', 'time', ''], align='l', max_width=80)
    for run in states:
        seconds, note = run.seconds, run.error.splitlines()[-1] if run.error else ''
        if run.state == RUNNING and run.started is not None:
            newest = RunCheckpoints([work_dir / run.key]).newest()
            # The clock of the worker's machine may be ahead.
            seconds = max(0, time.time() - run.started)
            note = f'{newest.stem} saved' if newest else ''
        time_taken = '' if seconds is None else in_words(seconds)
        rows.add_row([run.name, run.seed, run.state, time_taken, note])
    return rows.get_string()


def work_left(groups: Sequence[RunGroup]) -> float | None:
    """Estimate the total duration of the remaining runs in seconds.

    The duration of a run is estimated from its finished seeds and folds, or from all finished runs
    if it has none.

    Args:
        groups: All runs.

    Returns:
        None if no run is finished, or none is left.
    """
    totals: dict[str, tuple[int, float]] = {}
    left: Counter[str] = Counter()
    for group in groups:
        name = _FOLD.sub('', group.name)
        if group.state == DONE and group.timed:
            runs, seconds = totals.get(name, (0, 0.0))
            totals[name] = runs + group.timed, seconds + group.seconds
        elif group.state in (WAITING, RUNNING):
            left[name] += group.runs
    if not totals or not left:
        return None
    means = {name: seconds / runs for name, (runs, seconds) in totals.items()}
    mean = fmean(means.values())
    return sum(number * means.get(name, mean) for name, number in left.items())


def seconds_left(work: float | None, counts: Mapping[str, int], idle: int = 0) -> float | None:
    """Estimate the remaining time in seconds.

    Args:
        work: Result of :func:`work_left`.
        counts: Number of runs of each state.
        idle: Number of workers that are about to claim a run, in addition to the running ones.
    """
    left = counts[WAITING] + counts[RUNNING]
    if work is None or not left:
        return None
    return work / min(max(counts[RUNNING] + idle, 1), left)
