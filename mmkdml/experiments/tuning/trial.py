"""One trial of a search: trains a config and returns its best validation score."""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from optuna import Trial, TrialPruned

from mmkdml.apis import load_config, make_runner, use_amp
from mmkdml.apis.run.settings import all_schedules
from mmkdml.apis.runner import WARNINGS


class TrialHook(Hook):
    """Reports validation scores to Optuna, and stops the run if Optuna prunes the trial.

    Attributes:
        values: Reported scores.
    """

    # Runs after the logger, and before the checkpoint hook, which fails if the metric is missing.
    priority = 'LOW'

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.values: list[float] = []

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report a validation score.

        Raises:
            ValueError: If the metric is missing, NaN or infinite.
            TrialPruned: If the trial is pruned.
        """
        value = (metrics or {}).get(self.metric)
        if value is None:
            raise ValueError(
                f'Invalid save_best: expected a validation metric '
                f'({", ".join(metrics or {}) or "none"}), got {self.metric}'
            )
        if not math.isfinite(value):
            raise ValueError(
                f'{self.metric} is {value} after epoch {runner.epoch}: the training has diverged, '
                'or the validation split has nothing to score'
            )
        self.values.append(float(value))
        self.trial.report(float(value), step=runner.epoch)
        if self.trial.should_prune():
            raise TrialPruned(f'{self.metric} is {value:.4g} after epoch {runner.epoch}')


def trial_config(
    path: str | Path, options: Mapping[str, Any], work_dir: str | Path, amp: bool = False
) -> Config:
    """Load the searched config with the options of a trial and without its test split."""
    config = load_config(path, options, work_dir)
    config.test_dataloader = config.test_evaluator = config.test_cfg = None
    # In one process, runs with the same name would share logger, message hub and visualizer.
    config.experiment_name = f'{Path(work_dir).name}_{time.time_ns()}'
    if config.get('visualizer'):
        config.visualizer.name = config.experiment_name
    if amp:
        use_amp(config)
    return config


def train_trial(
    trial: Trial, config: Config, metric: str, direction: str, output: str = WARNINGS
) -> float:
    """Train a trial from scratch.

    Returns:
        The best validation score, i.e., that of the best checkpoint.

    Raises:
        ValueError: If there was no validation, or its metric is missing or not finite.
        TrialPruned: If the trial is pruned.
    """
    shutil.rmtree(config.work_dir, ignore_errors=True)
    gc.collect()  # frees the device memory of the previous runner, which has reference cycles
    runner = make_runner(config, output=output)
    hook = TrialHook(trial, metric)
    runner.register_hook(hook)
    runner.train()
    if not hook.values:
        raise ValueError(
            'The run ended without a validation. Change train_cfg.val_begin and val_interval'
        )
    return max(hook.values) if direction == 'maximize' else min(hook.values)


def objective(config: Config, path: Path) -> tuple[str, Literal['maximize', 'minimize']]:
    """Return the metric that selects the config's best checkpoint, and its direction.

    Raises:
        ValueError: If ``save_best`` is not the name of a metric.
    """
    checkpoint = config.get('default_hooks', {}).get('checkpoint', {})
    metric = checkpoint.get('save_best')
    if not isinstance(metric, str) or metric == 'auto':
        raise ValueError(
            f'Invalid default_hooks.checkpoint.save_best in {path}: expected a validation metric, '
            f"e.g. 'ensemble/foreground/IoU', got {metric!r}"
        )
    return metric, 'minimize' if checkpoint.get('rule') == 'less' else 'maximize'


def epoch_options(config: Config, epochs: int) -> dict[str, Any]:
    """Return the settings that change the number of epochs, also of schedules that end with it.

    Raises:
        ValueError: If the config has no number of epochs, or ``epochs`` is below 1.
    """
    before = config.train_cfg.get('max_epochs')
    if before is None or epochs < 1:
        raise ValueError(
            'Invalid epochs: expected at least 1 and a config with train_cfg.max_epochs, got '
            f'{epochs} and max_epochs={before}'
        )
    options: dict[str, Any] = {'train_cfg.max_epochs': epochs}
    for place, schedule in all_schedules(config):
        options |= {
            f'{place}.{key}': epochs for key in ('T_max', 'end') if schedule.get(key) == before
        }
    return options
