"""Search for the loss weights of a classroom with Optuna; resumable, with any number of workers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import GridSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from mmkdml.apis import load_config, use_amp
from mmkdml.apis.options import merge_options
from mmkdml.apis.output_folder import OutputFolder
from mmkdml.apis.runner import LOG, WARNINGS
from mmkdml.experiments.database import LOCK_SECONDS, RETRY_SECONDS, Database, UnavailableError
from mmkdml.experiments.run_spec import settings_text
from mmkdml.experiments.tuning.display import TunerDisplay
from mmkdml.experiments.tuning.results import ERROR, last_error, result_names, write_results
from mmkdml.experiments.tuning.space import (
    LEARNING_RATE,
    SearchSpace,
    lattice,
    letters_of,
    paper_grid,
    temperature_matters,
)
from mmkdml.experiments.tuning.study import (
    STARTED,
    SURPLUS,
    counted_trials,
    fail_lost_trials,
    open_study,
    quiet_optuna,
    requeue,
)
from mmkdml.experiments.tuning.trial import (
    SavedScore,
    epoch_options,
    objective,
    train_trial,
    trial_config,
)
from mmkdml.packages import packaged_file

GRID, TPE = SAMPLERS = ('grid', 'tpe')
MEDIAN, NO_PRUNER = PRUNERS = ('median', 'none')
DATABASE = 'tune.db'
OPTIONS = 'options'  # user attribute of a trial, for Optuna's dashboard
TPE_TRIALS = 50
MAX_CONSECUTIVE_FAILURES = 3
POLL_SECONDS = 2.0


class Tuner:
    """Searches alpha, beta and gamma of both students and, optionally, other settings.

    A trial trains the config with other weights. Its score is the best value of the validation
    metric that ``save_best`` of the config selects; the test split is never used. The best config
    contains all settings of the searched config and ``options``; ``epochs`` and ``amp`` only apply
    to trials.

    Args:
        config: Config file of a classroom.
        options: Changes to it, by dotted key.
        sampler: ``'grid'`` or ``'tpe'``.
        trials: Total number of trials of all workers, including earlier ones of a resumed search.
            Default: all points of the grid, or 50.
        tied: Use the same weights for both students.
        grid_step: Replace the paper's grid by all weights that are multiples of this step.
        lr: Lowest and highest learning rate, only with TPE. Default: not searched.
        temperature: Lowest and highest temperature, only with TPE. Default: not searched.
        epochs: Number of epochs of a trial. Default: the config's.
        amp: Train in mixed precision.
        pruner: ``'median'`` prunes trials whose best score is worse than the median of the others
            at the same epoch, once five are complete; ``'none'`` does not prune.
        seed: Random seed of TPE; must differ between workers.
        out: Folder of all files. Default: ``work_dirs/tune/<study_name>``.
        storage: SQLAlchemy URL of the database. Default: ``tune.db`` in the folder.
        study_name: Name of the study. Default: folder and name of the config.
        keep_checkpoints: Keep the checkpoints of all trials, not only of the best one.
        verbose: Print the whole log of each trial, which is always in its file.
        log: Prints a line. Default: the console, with a live bar on a terminal.

    Raises:
        ValueError: If an argument is invalid, or the config has nothing to search.
        FileNotFoundError: If the config does not exist.
    """

    def __init__(
        self,
        config: str | Path,
        options: Mapping[str, Any] | None = None,
        sampler: str = GRID,
        trials: int | None = None,
        tied: bool = False,
        grid_step: float | None = None,
        lr: tuple[float, float] | None = None,
        temperature: tuple[float, float] | None = None,
        epochs: int | None = None,
        amp: bool = False,
        pruner: str = MEDIAN,
        seed: int | None = None,
        out: str | Path | None = None,
        storage: str | None = None,
        study_name: str | None = None,
        keep_checkpoints: bool = False,
        verbose: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> None:
        for name, value, allowed in (('sampler', sampler, SAMPLERS), ('pruner', pruner, PRUNERS)):
            if value not in allowed:
                raise ValueError(
                    f'Invalid {name}: expected one of {", ".join(allowed)}, got {value!r}'
                )
        if trials is not None and trials < 1:
            raise ValueError(f'Invalid number of trials: expected at least 1, got {trials}')
        self.path = packaged_file(config)
        self.options = dict(options or {})
        loaded = load_config(self.path, self.options)
        model: Any = loaded.get('model') or {}
        if 'mode' not in model:
            raise ValueError(
                f'Invalid config {config}: expected a model with a mode, such as '
                f'DiversifiedKDMLDistiller, got {model.get("type")}'
            )
        self.metric, self.direction = objective(loaded, self.path)
        letters, grid = letters_of(model.mode), None
        if sampler == GRID:
            grid = paper_grid(letters) if grid_step is None else lattice(letters, grid_step)
        elif grid_step is not None:
            raise ValueError(f'Invalid grid step: expected the sampler grid, got {sampler}')
        if temperature is not None and not temperature_matters(model.mode, model.get('style')):
            raise ValueError(
                'Invalid range of the temperature: no effect, because no student of '
                f'{model.mode} {model.style} receives predictions'
            )
        if lr is not None and 'lr' not in (loaded.optim_wrapper.get('optimizer') or {}):
            raise ValueError(f'Invalid range of the learning rate: {config} has no {LEARNING_RATE}')
        self.space = SearchSpace(letters, grid, tied, lr, temperature)
        size = self.space.size()
        self.trials = min(trials or size or TPE_TRIALS, size or sys.maxsize)
        self.amp = amp
        self.epoch_options = {} if epochs is None else epoch_options(loaded, epochs)
        self.name = study_name or f'{self.path.resolve().parent.name}_{self.path.stem}'
        self.out = Path(out or Path('work_dirs') / 'tune' / self.name)
        self.url = storage or f'sqlite:///{self.out / DATABASE}'
        self.keep_checkpoints = keep_checkpoints
        self.output = LOG if verbose else WARNINGS
        self._display = TunerDisplay(self.name, self.trials, self.metric, self.space, self.out, log)
        self.log = self._display.log
        self._sampler = TPESampler(seed=seed) if grid is None else GridSampler(self.space.choices())
        self._pruner = MedianPruner() if pruner == MEDIAN else NopPruner()
        self._current: int | None = None
        self._settings = self._settings_text(pruner, loaded)

    def search(self) -> list[Path]:
        """Run trials until the total is reached, wait for other workers, and write the results.

        Trials that failed earlier are repeated.

        Returns:
            The written files: table, best config, picture; only the table if all scores are equal,
            so that no weights are better than others.

        Raises:
            ValueError: If :data:`MAX_CONSECUTIVE_FAILURES` trials fail in a row, no trial is
                complete in the end, the study was started with other settings, or its database is
                not accessible.
            FileExistsError: If a result would overwrite a file that is not from a search.
            KeyboardInterrupt: After Ctrl-C; the running trial is queued again.
        """
        OutputFolder(self.out).check(result_names(self.path))
        self.out.mkdir(parents=True, exist_ok=True)
        with quiet_optuna():
            return self._search()

    def _search(self) -> list[Path]:
        database = self._database = Database(self.url, LOCK_SECONDS)
        database.retry_seconds, database.log = RETRY_SECONDS, self.log
        study = open_study(
            self.url,
            self.name,
            self.direction,
            self._settings,
            self._sampler,
            self._pruner,
            database,
        )
        for trial in counted_trials(study.get_trials()):
            if trial.state == TrialState.FAIL:
                requeue(study, trial)
        with self._display.start(study):
            self._run_trials(study)
        trials = counted_trials(study.get_trials())
        if not any(trial.state == TrialState.COMPLETE for trial in trials):
            raise ValueError(f'None of {len(trials)} trials is complete. {last_error(trials)}')
        return write_results(
            study, trials, self.space, self.metric, self.path, self.options, self.out
        )

    def _run_trials(self, study: Study) -> None:
        failures, is_waiting = 0, False
        while True:
            fail_lost_trials(study, self._database)
            trials = counted_trials(study.get_trials(deepcopy=False))
            states = {trial.state for trial in trials}
            if TrialState.WAITING in states or len(trials) < self.trials:
                failures = failures + 1 if self._run_trial(study) else 0
                is_waiting = False
            elif TrialState.RUNNING in states:
                if not is_waiting:
                    running = [t.number for t in trials if t.state == TrialState.RUNNING]
                    self.log(f'waiting for trials of other workers: {running}')
                is_waiting = True
                time.sleep(POLL_SECONDS)
            else:
                return
            if failures == MAX_CONSECUTIVE_FAILURES:
                raise ValueError(
                    f'{failures} consecutive trials failed. {last_error(study.get_trials())}. Fix '
                    'the cause and rerun the command; failed trials are retried'
                )

    def _run_trial(self, study: Study) -> bool:
        """Run one trial; return whether it failed."""
        finished: list[FrozenTrial] = []
        self._current = None
        try:
            study.optimize(
                self._train,
                n_trials=1,
                catch=(Exception,),
                callbacks=[lambda _, trial: finished.append(trial)],
            )
        except UnavailableError:
            raise
        except (UpdateFinishedTrialError, ValueError, AssertionError, UnboundLocalError) as error:
            # Optuna hides errors of the storage at the end of a trial.
            if isinstance(error.__context__, UnavailableError):
                raise error.__context__ from None
            # Optuna raises these if another worker has marked the trial as failed.
            if self._current is None or study.get_trials()[self._current].state != TrialState.FAIL:
                raise
            self.log(f'trial {self._current} had no heartbeat for too long and is repeated')
            return False
        if not self.keep_checkpoints:
            self._delete_checkpoints(study)
        self._display.finished(study, finished[0])
        return finished[0].state == TrialState.FAIL

    def _train(self, trial: Trial) -> float:
        self._current = trial.number
        trial.set_user_attr(STARTED, trial.number)
        options = self.space.options(trial)
        self._prune_surplus(trial)
        trial.set_user_attr(OPTIONS, options)
        options = {**self.options, **self.epoch_options, **options}
        try:
            saved = SavedScore(trial, options, self._settings)
            score = saved.find(self._folder)
            if score is not None:
                self.log(f'trial {trial.number}: recording the result of an earlier worker')
                return score
            config = trial_config(self.path, options, self._folder(trial.number), self.amp)
            return train_trial(trial, config, self.metric, self.direction, self.output, saved)
        except TrialPruned:
            raise
        except UnavailableError:
            raise
        except KeyboardInterrupt:
            self._database.stop.set()  # do not wait for an unavailable database
            with suppress(UnavailableError):
                requeue(trial.study, trial.study.get_trials()[trial.number])
            raise
        except Exception as error:
            trial.set_user_attr(ERROR, f'{type(error).__name__}: {error}')
            raise

    def _prune_surplus(self, trial: Trial) -> None:
        """Prune a trial if other workers have started the same one, or reached the total."""
        trials = trial.study.get_trials(deepcopy=False)
        earlier = [other for other in counted_trials(trials) if other.number < trial.number]
        is_repeated = self.space.grid and any(other.params == trial.params for other in earlier)
        if is_repeated or len(earlier) >= self.trials:
            trial.set_user_attr(SURPLUS, True)
            raise TrialPruned('started by another worker')

    def _delete_checkpoints(self, study: Study) -> None:
        trials = study.get_trials(deepcopy=False)
        finished = {trial.number for trial in trials if trial.state.is_finished()}
        if any(trial.state == TrialState.COMPLETE for trial in trials):
            finished.discard(study.best_trial.number)
        for number in finished:
            for checkpoint in self._folder(number).glob('*.pth'):
                checkpoint.unlink(missing_ok=True)

    def _folder(self, number: int) -> Path:
        return self.out / f'trial_{number}'

    def _settings_text(self, pruner: str, config: Config) -> str:
        """Return all settings that decide trials and their scores; changes the config."""
        search = asdict(self.space) | dict(
            metric=self.metric,
            direction=self.direction,
            pruner=pruner,
            amp=self.amp,
            seed=config.get('randomness', {}).get('seed'),
        )
        merge_options(config, self.epoch_options)
        if self.amp:
            use_amp(config)
        lines = [f'{key}: {json.dumps(value)}' for key, value in search.items()]
        return '\n'.join([*lines, settings_text(config)])
