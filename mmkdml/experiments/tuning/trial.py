"""One trial of a search: trains a config and returns its best validation score."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from optuna import Trial, TrialPruned

from mmkdml.apis import load_config, make_runner, use_amp
from mmkdml.apis.run.settings import all_schedules
from mmkdml.apis.runner import WARNINGS
from mmkdml.files import write_atomically

SCORE = 'score.json'


class TrialHook(Hook):
    """Reports validation scores to Optuna, and stops the run if Optuna prunes the trial.

    Attributes:
        values: Reported scores.
        by_epoch: Last reported score of each epoch.
    """

    # Runs after the logger, and before the checkpoint hook, which fails if the metric is missing.
    priority = 'LOW'

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.values: list[float] = []
        self.by_epoch: dict[int, float] = {}

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
        self.by_epoch[runner.epoch] = float(value)
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
    trial: Trial,
    config: Config,
    metric: str,
    direction: str,
    output: str = WARNINGS,
    saved: SavedScore | None = None,
) -> float:
    """Train a trial from scratch.

    Args:
        trial: The trial.
        config: Its config.
        metric: Validation metric.
        direction: ``'maximize'`` or ``'minimize'``.
        output: See :func:`mmkdml.apis.make_runner`.
        saved: Writes the score to the folder.

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
    score = max(hook.values) if direction == 'maximize' else min(hook.values)
    if saved is not None:
        saved.write(Path(config.work_dir), score, hook.by_epoch)
    return score


class SavedScore:
    """Score of a trial, which is kept in its folder until the database records it.

    Args:
        trial: The trial.
        options: Its settings.
        settings: Settings text of the search.
    """

    def __init__(self, trial: Trial, options: Mapping[str, Any], settings: str) -> None:
        self._trial = trial
        text = json.dumps([settings, {key: repr(options[key]) for key in sorted(options)}])
        self._key = hashlib.sha256(text.encode()).hexdigest()

    def write(self, folder: Path, score: float, reported: Mapping[int, float]) -> None:
        """Write the score and the reported values by epoch."""
        content = dict(key=self._key, score=score, reported=[*reported.items()])
        write_atomically(folder / SCORE, json.dumps(content).encode())

    def find(self, folder_of: Callable[[int], Path]) -> float | None:
        """Find the score of an earlier attempt, whose worker could not record it.

        Its folder becomes that of this trial, and its values are reported.

        Args:
            folder_of: Returns the folder of a trial by its number.
        """
        folder = folder_of(self._trial.number)
        attributes = self._trial.study.get_trials(deepcopy=False)[self._trial.number].system_attrs
        for number in reversed(attributes.get('retry_history', [])):
            try:
                content = json.loads((folder_of(number) / SCORE).read_text())
                if content['key'] != self._key:
                    continue
                score = float(content['score'])
                reported = [(int(step), float(value)) for step, value in content['reported']]
            except (OSError, KeyError, TypeError, ValueError):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            folder_of(number).rename(folder)
            for step, value in reported:
                self._trial.report(value, step)
            return score
        return None


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
