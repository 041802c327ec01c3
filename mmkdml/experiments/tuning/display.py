"""Progress of a search on the console: a line per finished trial, and a live bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from mmkdml.console import OverallProgress, in_words
from mmkdml.experiments.tuning.results import ERROR, tried_options
from mmkdml.experiments.tuning.space import SearchSpace, flat
from mmkdml.experiments.tuning.study import SURPLUS, counted_trials


class TunerDisplay:
    """Prints the trials of one worker, and the progress of all.

    Args:
        name: Name of the study.
        total: Number of trials of all workers.
        metric: Metric that is searched for.
        space: Searched settings.
        out: Folder of the search.
        log: Prints a line. Default: the console, above the bar.
    """

    def __init__(
        self,
        name: str,
        total: int,
        metric: str,
        space: SearchSpace,
        out: Path,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._name, self._total, self._metric = name, total, metric
        self._space, self._out = space, out
        self._bar = OverallProgress(total, 'trials')
        self.log = log or self._bar.console.line

    def start(self, study: Study) -> OverallProgress:
        """Print what is searched; return the bar, a context manager."""
        done = _count_finished(study)
        self.log(
            f'{self._name}: searching the best {self._metric} on the validation split in '
            f'{self._total} trials{f", {done} of them done" if done else ""}; folder {self._out}'
        )
        self._bar = OverallProgress(self._total, 'trials', done)
        return self._bar

    def finished(self, study: Study, trial: FrozenTrial) -> None:
        """Print the line of a finished trial, and update the bar."""
        if SURPLUS in trial.user_attrs:
            return
        best = _best(study)
        self._bar.advance(_count_finished(study), note=best)
        seconds = max(0.0, trial.duration.total_seconds()) if trial.duration else 0
        weights = ' '.join(
            f'{key} {value:.3g}' for key, value in flat(tried_options(trial, self._space)).items()
        )
        self.log(
            f'trial {trial.number:<3} {self._outcome(trial)}  {weights}  in {in_words(seconds)}; '
            f'{best}; {self._bar.text()}'
        )

    def _outcome(self, trial: FrozenTrial) -> str:
        if trial.state == TrialState.COMPLETE:
            return f'{trial.value:6.2f}'
        if trial.state == TrialState.PRUNED:
            return 'pruned' if trial.value is None else f'pruned at {trial.value:.2f}'
        error = str(trial.user_attrs.get(ERROR, 'its process was killed')).splitlines()[0]
        return f'failed: {error} (log: {self._out / f"trial_{trial.number}"})'


def _count_finished(study: Study) -> int:
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    return sum(trial.state in finished for trial in counted_trials(study.get_trials()))


def _best(study: Study) -> str:
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    if TrialState.COMPLETE not in states:
        return 'no trial is complete'
    return f'best {study.best_value:.2f} (trial {study.best_trial.number})'
