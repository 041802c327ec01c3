"""The search for the weights of a classroom by Optuna: stopped at any time, shared by many."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import GridSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from mmkdml.apis import load_config, use_amp
from mmkdml.apis.options import merge_options
from mmkdml.apis.output_folder import OutputFolder
from mmkdml.experiments.run_spec import settings_text
from mmkdml.experiments.tuning.results import ERROR, OPTIONS, result_names, write_results
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
    counted,
    fail_lost_trials,
    open_study,
    queue_again,
    told,
)
from mmkdml.experiments.tuning.trial import epoch_options, train_trial, trial_config

GRID, TPE = SAMPLERS = ('grid', 'tpe')
MEDIAN, NO_PRUNER = PRUNERS = ('median', 'none')
DATABASE = 'tune.db'
TPE_TRIALS = 50
FAILURES_IN_A_ROW = 3
POLL_SECONDS = 2.0


class Tuner:
    """Searches alpha, beta and gamma of both students, and what else is asked for.

    A trial trains the config with other weights; how good it was is the best validation by the
    config's own ``save_best``. The test part is never read. The best config has all
    settings of the one that is searched, with the user's changes but for ``epochs`` and ``amp``,
    which are the trials' own.

    Args:
        config: The config file of a classroom.
        options: Changes to it, by dotted key.
        sampler: ``'grid'`` or ``'tpe'``.
        trials: How many in all, over all starts and workers; default: the whole grid, or 50.
        tied: Whether both students have the same weights.
        grid_step: Try all weights that are multiples of it, in place of the paper's grid.
        lr: Lowest and highest learning rate, None to leave the config's. TPE only.
        temperature: The same for the temperature of the predictions. TPE only.
        epochs: Epochs of a trial; default: the config's.
        amp: Train in mixed precision.
        pruner: ``'median'`` stops trials whose best validation is behind the median of the others
            after as many epochs, once five are complete; ``'none'``.
        seed: Seed of TPE; workers need different ones, or none.
        out: Folder of everything; default: ``work_dirs/tune/<name of the study>``.
        storage: SQLAlchemy's URL of a database; default: ``tune.db`` in the folder.
        study_name: Default: folder and name of the config.
        keep_checkpoints: Keep those of all trials, not of the best one only.
        say: Gets a line when there is something to tell.

    Raises:
        ValueError: If these do not go together, or the config has nothing to search.
        FileNotFoundError: If there is no such config.
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
        say: Callable[[str], None] = print,
    ) -> None:
        for name, value, allowed in (('sampler', sampler, SAMPLERS), ('pruner', pruner, PRUNERS)):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {", ".join(allowed)}; got {value!r}')
        if trials is not None and trials < 1:
            raise ValueError(f'The number of trials must be at least 1, got {trials}')
        self.path = Path(config)
        self.options = dict(options or {})
        loaded = load_config(self.path, self.options)
        model: Any = loaded.get('model') or {}
        if 'mode' not in model:
            raise ValueError(
                f'{config} has no mode (ml, kd_off, kd_on, kdml), so there are no weights to '
                'search; give the config of a DiversifiedKDMLDistiller'
            )
        checkpoint = loaded.get('default_hooks', {}).get('checkpoint', {})
        self.metric = checkpoint.get('save_best')
        if not isinstance(self.metric, str) or self.metric == 'auto':
            raise ValueError(
                f'default_hooks.checkpoint.save_best of {config} must name the one validation '
                f"metric to search by, e.g. 'ensemble/foreground/IoU'; got {self.metric!r}"
            )
        self.direction: Literal['maximize', 'minimize']
        self.direction = 'minimize' if checkpoint.get('rule') == 'less' else 'maximize'
        letters, grid = letters_of(model.mode), None
        if sampler == GRID:
            grid = paper_grid(letters) if grid_step is None else lattice(letters, grid_step)
        elif grid_step is not None:
            raise ValueError(f'A grid step needs the sampler grid; got {sampler}')
        if temperature is not None and not temperature_matters(model.mode, model.get('style')):
            raise ValueError(
                f'No student of {model.mode} {model.style} receives predictions, so a temperature '
                'changes nothing; leave it out'
            )
        if lr is not None and 'lr' not in (loaded.optim_wrapper.get('optimizer') or {}):
            raise ValueError(f'{config} has no {LEARNING_RATE}; set it, or leave the range out')
        self.space = SearchSpace(letters, grid, tied, lr, temperature)
        self.trials = min(
            trials or self.space.size() or TPE_TRIALS, self.space.size() or sys.maxsize
        )
        self.amp = amp
        self.epoch_options = {} if epochs is None else epoch_options(loaded, epochs)
        self.name = study_name or f'{self.path.resolve().parent.name}_{self.path.stem}'
        self.out = Path(out or Path('work_dirs') / 'tune' / self.name)
        self.url = storage or f'sqlite:///{self.out / DATABASE}'
        self.keep_checkpoints = keep_checkpoints
        self.say = say
        self._sampler = TPESampler(seed=seed) if grid is None else GridSampler(self.space.choices())
        self._now: int | None = None
        self._pruner = MedianPruner() if pruner == MEDIAN else NopPruner()
        self._settings = self._settings_text(pruner, loaded)

    def search(self) -> list[Path]:
        """Makes trials until there are enough, waits for those of others, and writes the results.

        Trials that failed in an earlier search are tried again.

        Returns:
            The files written: table, best config, landscape.

        Raises:
            ValueError: If trials fail one after the other, or none is complete in the end; if the
                study was begun with other settings, or its database cannot be used.
            FileExistsError: If a result would replace a file that no search wrote.
            KeyboardInterrupt: If it was stopped; the trial in work is queued again.
        """
        OutputFolder(self.out).check(result_names(self.path))
        self.out.mkdir(parents=True, exist_ok=True)
        study = open_study(
            self.url, self.name, self.direction, self._settings, self._sampler, self._pruner
        )
        with told(self.url):
            for trial in counted(study.get_trials()):
                if trial.state == TrialState.FAIL:
                    queue_again(study, trial)
            self._make_trials(study)
            trials = counted(study.get_trials())
            if not any(trial.state == TrialState.COMPLETE for trial in trials):
                raise ValueError(
                    f'None of {len(trials)} trials came to a good end, so there is no best one. '
                    f'{_last_error(trials)}'
                )
            return write_results(study, trials, self.metric, self.path, self.options, self.out)

    def _make_trials(self, study: Study) -> None:
        failures, waiting = 0, False
        while True:
            fail_lost_trials(study)
            trials = counted(study.get_trials(deepcopy=False))
            states = {trial.state for trial in trials}
            if TrialState.WAITING in states or len(trials) < self.trials:
                failures = failures + 1 if self._make_trial(study) else 0
                waiting = False
            elif TrialState.RUNNING in states:
                if not waiting:
                    running = [t.number for t in trials if t.state == TrialState.RUNNING]
                    self.say(f'waiting for trials that others make, or have left: {running}')
                waiting = True
                time.sleep(POLL_SECONDS)
            else:
                return
            if failures == FAILURES_IN_A_ROW:
                raise ValueError(
                    f'{failures} trials in a row have failed. {_last_error(study.get_trials())}. '
                    'Mend it and start again, which tries them again'
                )

    def _make_trial(self, study: Study) -> bool:
        """Makes one trial; returns whether it failed."""
        made: list[FrozenTrial] = []
        self._now = None
        try:
            study.optimize(
                self._train,
                n_trials=1,
                catch=(Exception,),
                callbacks=[lambda _, trial: made.append(trial)],
            )
        except (UpdateFinishedTrialError, ValueError, AssertionError):
            # What Optuna makes of the end of a trial that another worker has ended.
            if self._now is None or study.get_trials()[self._now].state != TrialState.FAIL:
                raise
            self.say(f'trial {self._now} gave no sign of life for too long; another one repeats it')
            return False
        if not self.keep_checkpoints:
            self._delete_checkpoints(study)
        return made[0].state == TrialState.FAIL

    def _train(self, trial: Trial) -> float:
        self._now = trial.number
        trial.set_user_attr(STARTED, trial.number)
        options = self.space.options(trial)
        self._refuse_surplus(trial)
        trial.set_user_attr(OPTIONS, options)
        options = {**self.options, **self.epoch_options, **options}
        try:
            config = trial_config(self.path, options, self._folder(trial.number), self.amp)
            return train_trial(trial, config, self.metric, self.direction)
        except TrialPruned:
            raise
        except KeyboardInterrupt:
            queue_again(trial.study, trial.study.get_trials()[trial.number])
            raise
        except Exception as error:
            trial.set_user_attr(ERROR, f'{type(error).__name__}: {error}')
            raise

    def _refuse_surplus(self, trial: Trial) -> None:
        """Ends a trial that two workers began for the same place, but for the first of them."""
        trials = trial.study.get_trials(deepcopy=False)
        earlier = [other for other in counted(trials) if other.number < trial.number]
        same = self.space.grid and any(other.params == trial.params for other in earlier)
        if same or len(earlier) >= self.trials:
            trial.set_user_attr(SURPLUS, True)
            raise TrialPruned('another worker was faster')

    def _delete_checkpoints(self, study: Study) -> None:
        trials = study.get_trials(deepcopy=False)
        ended = {trial.number for trial in trials if trial.state.is_finished()}
        if any(trial.state == TrialState.COMPLETE for trial in trials):
            ended.discard(study.best_trial.number)
        for number in ended:
            for checkpoint in self._folder(number).glob('*.pth'):
                checkpoint.unlink(missing_ok=True)

    def _folder(self, number: int) -> Path:
        return self.out / f'trial_{number}'

    def _settings_text(self, pruner: str, config: Config) -> str:
        """All that decides how good a trial is and which trials are made, as lines of JSON."""
        space = self.space
        search = dict(
            metric=self.metric,
            direction=self.direction,
            pruner=pruner,
            grid=space.grid and [list(point) for point in space.grid],
            tied=space.tied,
            lr=space.lr,
            temperature=space.temperature,
            amp=self.amp,
            seed=config.get('randomness', {}).get('seed'),
        )
        merge_options(config, self.epoch_options)
        if self.amp:
            use_amp(config)
        lines = [f'{key}: {json.dumps(value)}' for key, value in search.items()]
        return '\n'.join([*lines, settings_text(config)])


def _last_error(trials: list[FrozenTrial]) -> str:
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    if not failed:
        return 'All were pruned'
    return (
        f'Trial {failed[-1].number}: {failed[-1].user_attrs.get(ERROR, "its process was killed")}'
    )
