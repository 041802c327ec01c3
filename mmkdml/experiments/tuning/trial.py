"""One trial of a search: trains a config and says how good its best validation was."""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from optuna import Trial, TrialPruned

from mmkdml.apis import load_config, make_runner, use_amp


class TrialHook(Hook):
    """Reports each validation to Optuna, and ends the run where Optuna expects no good of it.

    Args:
        trial: The trial.
        metric: Key of the validation metric.

    Attributes:
        values: What was measured so far.
    """

    # After the logger, and before the checkpoint hook, which stumbles over a missing metric.
    priority = 'LOW'

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.values: list[float] = []

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Reports a validation.

        Args:
            runner: The runner.
            metrics: What the evaluator returned.

        Raises:
            ValueError: If the metric is missing or not finite.
            TrialPruned: If the trial is to be stopped.
        """
        value = (metrics or {}).get(self.metric)
        if value is None:
            raise ValueError(
                f'The search is by {self.metric} (save_best of the config), but a validation '
                f'gives {", ".join(metrics or {}) or "nothing"}'
            )
        if not math.isfinite(value):
            raise ValueError(
                f'{self.metric} is {value} after epoch {runner.epoch}: the training has diverged, '
                'or the validation part has nothing to score'
            )
        self.values.append(float(value))
        self.trial.report(float(value), step=runner.epoch)
        if self.trial.should_prune():
            raise TrialPruned(f'{self.metric} is {value:.4g} after epoch {runner.epoch}')


def trial_config(
    path: str | Path, options: Mapping[str, Any], work_dir: str | Path, amp: bool = False
) -> Config:
    """The config of a trial; it knows no test part.

    Args:
        path: The config file that is searched.
        options: Its settings in this trial, by dotted key.
        work_dir: Folder of the trial.
        amp: Train in mixed precision.
    """
    config = load_config(path, options, work_dir)
    config.test_dataloader = config.test_evaluator = config.test_cfg = None
    # Runs of one name in one process share their log, their history and their visualizer.
    config.experiment_name = f'{Path(work_dir).name}_{time.time_ns()}'
    if config.get('visualizer'):
        config.visualizer.name = config.experiment_name
    if amp:
        use_amp(config)
    return config


def train_trial(trial: Trial, config: Config, metric: str, direction: str) -> float:
    """Trains in an empty folder.

    Args:
        trial: The trial.
        config: As :func:`trial_config` gives it.
        metric: Key of the validation metric.
        direction: ``'maximize'`` or ``'minimize'``.

    Returns:
        The metric of the best validation, which is that of the best checkpoint.

    Raises:
        ValueError: If nothing was validated, or as of :class:`TrialHook`.
        TrialPruned: If the trial was stopped.
    """
    shutil.rmtree(config.work_dir, ignore_errors=True)
    gc.collect()  # the runner of the trial before refers to itself, and holds memory of the device
    runner = make_runner(config)
    hook = TrialHook(trial, metric)
    runner.register_hook(hook)
    runner.train()
    if not hook.values:
        raise ValueError(
            'The run ended without a validation; set train_cfg.val_begin and val_interval so that '
            'there is one'
        )
    return max(hook.values) if direction == 'maximize' else min(hook.values)


def epoch_options(config: Config, epochs: int) -> dict[str, Any]:
    """Settings for another number of epochs; schedules that end with the run still do.

    Args:
        config: The config.
        epochs: At least 1.

    Raises:
        ValueError: If the run is not counted in epochs, or the number is below 1.
    """
    before = config.train_cfg.get('max_epochs')
    if before is None or epochs < 1:
        raise ValueError(
            f'epochs must be at least 1, of a config with train_cfg.max_epochs; got {epochs} and '
            f'max_epochs={before}'
        )
    options: dict[str, Any] = {'train_cfg.max_epochs': epochs}
    schedulers = config.get('param_scheduler') or []
    several = isinstance(schedulers, (list, tuple))
    for index, scheduler in enumerate(schedulers if several else [schedulers]):
        prefix = f'param_scheduler.{index}' if several else 'param_scheduler'
        options |= {
            f'{prefix}.{key}': epochs for key in ('T_max', 'end') if scheduler.get(key) == before
        }
    return options
