"""Runner of the tools: leaves its folder unchanged until it trains, and prints little."""

from __future__ import annotations

import copy
import os
import warnings
from contextlib import nullcontext
from typing import Any

from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmkdml.apis.run.identity import unlock_run
from mmkdml.apis.run.output import only_warnings, print_end
from mmkdml.apis.summary.record import TEST, TRAIN, recorded
from mmkdml.console import get_console
from mmkdml.engine import ProgressHook
from mmkdml.engine.resume.safe_checkpoint import hide_notes
from mmkdml.files import own_file

# Of mmseg's CrossEntropyLoss and decode heads, whose defaults are choices of the config.
_CHOICES = (
    'Default ``avg_non_ignore`` is False, if you would like to ignore the certain label and '
    'average loss over non-ignore labels',
    'For binary segmentation, we suggest using`out_channels = 1`',
)


class RunRunner(Runner):
    """mmengine's ``Runner`` with a safe folder, and without warnings that nobody can act on."""

    quiet = False
    shows_progress = False

    def dump_config(self) -> None:
        """Do nothing: ``RunIdentityHook`` writes the config, so that a test does not replace it."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger after replacing links in its folder; see :func:`own_file`."""
        log = own_file(self.work_dir, self.timestamp, f'{self.timestamp}.log')
        for path in log.parent.rglob('*'):
            own_file(self.work_dir, path.relative_to(self.work_dir))
        logger = super().build_logger(*args, **kwargs)
        if self.quiet:
            only_warnings(logger)
        return logger

    def build_model(self, model: Any) -> nn.Module:
        """Build the model; mmseg's notes about its defaults are hidden."""
        with warnings.catch_warnings():
            for note in _CHOICES:
                warnings.filterwarnings('ignore', message=note)
            return super().build_model(model)

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build the evaluator; mmengine's note about metrics without a prefix is hidden."""
        with hide_notes(self.logger):
            return super().build_evaluator(evaluator)

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader with at most one worker per available core.

        More would be slower, and PyTorch warns of them. Results do not depend on their number.
        """
        if isinstance(dataloader, dict) and dataloader.get('num_workers'):
            cores, workers = _cores(), dataloader['num_workers']
            if workers > cores:
                dataloader = copy.deepcopy(dataloader)
                dataloader['num_workers'] = cores
                print_log(
                    f'The data loader has {cores} workers instead of {workers}, one per CPU core',
                    'current',
                )
        return Runner.build_dataloader(dataloader, *args, **kwargs)

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, with schedulers if the run has any."""
        kwargs['save_param_scheduler'] = (
            kwargs.get('save_param_scheduler', True) and self.param_schedulers is not None
        )
        with hide_notes(self.logger):
            super().save_checkpoint(*args, **kwargs)

    def train(self) -> nn.Module:
        """Train, and unlock the folder even if training fails."""
        try:
            with recorded(self, TRAIN), self._live(), hide_notes(self.logger):
                model = super().train()
        finally:
            unlock_run(self.cfg)
        if self.shows_progress:
            print_end(self)
        return model

    def test(self) -> dict[str, float]:
        """Test; the metrics are returned."""
        with recorded(self, TEST), self._live():
            metrics = super().test()
        if self.shows_progress:
            hooks = (one for one in self.hooks if isinstance(one, ProgressHook))
            print_end(self, sum(one.hidden for one in hooks))
        return metrics

    def _live(self) -> Any:
        show = self.shows_progress and is_main_process()
        return get_console().live() if show else nullcontext()


class WarningsRunner(RunRunner):
    """Runner that prints only warnings and errors."""

    quiet = True


class ProgressRunner(WarningsRunner):
    """Runner whose hooks print its progress, and that prints where its results are."""

    shows_progress = True


#: Class of the runner by what it prints.
LOG, PROGRESS, WARNINGS = 'log', 'progress', 'warnings'
RUNNERS = {LOG: RunRunner, PROGRESS: ProgressRunner, WARNINGS: WarningsRunner}


def _cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
