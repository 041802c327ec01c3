"""Progress of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from mmkdml.console import in_words
from mmkdml.experiments.suites.store import RunState
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING


def progress(states: Sequence[RunState], idle: int = 0) -> str:
    """Format the progress, e.g. ``12 of 42 done, 2 running, about 40 min left``.

    The remaining time of a run is estimated from its finished seeds, or from all finished runs if
    it has none.

    Args:
        states: All runs.
        idle: Number of workers that are about to claim a run, in addition to the running ones.
    """
    count = Counter(run.state for run in states)
    text = f'{count[DONE]} of {len(states)} done'
    text += ''.join(f', {count[state]} {state}' for state in (FAILED, RUNNING) if count[state])
    times: dict[str, list[float]] = {}
    for run in states:
        if run.state == DONE and run.seconds is not None:
            times.setdefault(run.name, []).append(run.seconds)
    left = [run.name for run in states if run.state in (WAITING, RUNNING)]
    if times and left:
        means = {name: fmean(values) for name, values in times.items()}
        mean = fmean(means.values())
        workers = min(max(count[RUNNING] + idle, 1), len(left))
        seconds = sum(means.get(name, mean) for name in left) / workers
        text += f', about {in_words(seconds)} left'
    return text
