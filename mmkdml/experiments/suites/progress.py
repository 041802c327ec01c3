"""Progress of a suite."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from mmkdml.console import in_words
from mmkdml.experiments.suites.store import RunState
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

_FOLD = re.compile(r'/fold_\d+(_\d+)?$')


def progress(states: Sequence[RunState], idle: int = 0) -> str:
    """Format the progress, e.g. ``12 of 42 done, 2 running, about 40 min left``.

    Args:
        states: All runs.
        idle: See :func:`seconds_left`.
    """
    count = Counter(run.state for run in states)
    text = f'{count[DONE]} of {len(states)} done'
    text += ''.join(f', {count[state]} {state}' for state in (FAILED, RUNNING) if count[state])
    seconds = seconds_left(states, idle)
    return text if seconds is None else f'{text}, about {in_words(seconds)} left'


def seconds_left(states: Sequence[RunState], idle: int = 0) -> float | None:
    """Estimate the remaining time in seconds.

    The remaining time of a run is estimated from its finished seeds and folds, or from all finished
    runs if it has none.

    Args:
        states: All runs.
        idle: Number of workers that are about to claim a run, in addition to the running ones.

    Returns:
        None if no run is finished, or none is left.
    """
    times: dict[str, list[float]] = {}
    for run in states:
        if run.state == DONE and run.seconds is not None:
            times.setdefault(_FOLD.sub('', run.name), []).append(run.seconds)
    left = [_FOLD.sub('', run.name) for run in states if run.state in (WAITING, RUNNING)]
    if not times or not left:
        return None
    means = {name: fmean(values) for name, values in times.items()}
    mean = fmean(means.values())
    running = sum(run.state == RUNNING for run in states)
    workers = min(max(running + idle, 1), len(left))
    return sum(means.get(name, mean) for name in left) / workers
