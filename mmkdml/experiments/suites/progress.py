"""How far a suite is."""

from __future__ import annotations

from collections.abc import Sequence

from mmkdml.experiments.suites.store import RunState
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING


def progress(states: Sequence[RunState], idle: int = 0) -> str:
    """``12 of 42 done, 2 running, about 40 min left``: from the mean time of what is done.

    A run's time is the mean of its other seeds' where there are any, else that of all runs.

    Args:
        states: All runs.
        idle: Workers that are about to take a run, beside those that run one.
    """
    count = {state: sum(run.state == state for run in states) for state in (DONE, FAILED, RUNNING)}
    words = f'{count[DONE]} of {len(states)} done'
    if count[FAILED]:
        words += f', {count[FAILED]} failed'
    if count[RUNNING]:
        words += f', {count[RUNNING]} running'
    times: dict[str, list[float]] = {}
    for run in states:
        if run.state == DONE and run.seconds is not None:
            times.setdefault(run.name, []).append(run.seconds)
    left = [run.name for run in states if run.state in (WAITING, RUNNING)]
    if times and left:
        known = {name: sum(values) / len(values) for name, values in times.items()}
        mean = sum(known.values()) / len(known)
        workers = min(max(count[RUNNING] + idle, 1), len(left))
        seconds = sum(known.get(name, mean) for name in left) / workers
        words += f', about {in_words(seconds)} left'
    return words


def in_words(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f'{minutes} min {rest} s' if minutes else f'{rest} s'
    return f'{minutes // 60} h {minutes % 60} min'
