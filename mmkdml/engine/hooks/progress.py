"""Hook that prints the progress of a training or test."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.console import Console, get_console, in_words, short_number, wrap
from mmkdml.engine.hooks.best_scores import (
    History,
    best_line,
    best_so_far,
    print_scores,
    unit_of_time,
)
from mmkdml.engine.hooks.loss_line import LossLine
from mmkdml.engine.memory import peak_memory_mib
from mmkdml.engine.unwrap import unwrap_model, unwrap_optimizers
from mmkdml.registry import HOOKS

#: Seconds between lines in a long epoch where there is no terminal.
PLAIN_SECONDS = 60.0
_REFRESH = 0.2


@HOOKS.register_module()
class ProgressHook(Hook):
    """Print the progress of a run: a line per epoch, and the members' measures of validations.

    On a terminal, a live line shows the current epoch. Without one, a line is also printed every
    :data:`PLAIN_SECONDS`, and iteration-based training prints one before each validation.

    Losses are means over the epoch, or since the last validation in iteration-based training. For
    each member, its supervised loss is followed by the losses of its transfers:
    ``S1 0.10 (T:f 0.11 S2:p 0.001)`` are the losses of ``student_1``, from the features of
    ``teacher`` and the predictions of ``student_2``.

    Only the main process prints.

    Args:
        validations: Print a line per epoch and the table of each validation. If False, lines are
            printed every :data:`PLAIN_SECONDS`, and the best value at the end.
        console: Where to print. Default: standard output.
        history: Function that returns the metrics of earlier validations of a resumed run.
    """

    priority = 'LOWEST'  # After checkpoints and results were written.

    def __init__(
        self,
        validations: bool = True,
        console: Console | None = None,
        history: History | None = None,
    ) -> None:
        self.validations = validations
        self.console = console or get_console()
        self._history = history
        self._validated: dict[int, Mapping[str, Any]] = {}
        self._best: str | None = None
        self._training = False
        self._since = self._shown = 0.0
        #: Number of metrics of a test that are not in its table.
        self.hidden = 0

    def before_train(self, runner: Runner) -> None:
        """Start to measure time."""
        if not is_main_process():
            return
        self._training = True
        self._line = LossLine(unwrap_model(runner.model))
        self._best = runner.message_hub.runtime_info.get('best_ckpt')
        self._validated = dict(self._history(runner)) if self._history and runner.iter else {}
        self._start, self._first = time.monotonic(), runner.iter
        self._printed = self._start
        self._best_line = ''
        self._reset()

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the means of an epoch."""
        if self._training and unit_of_time(runner) == 'epoch':
            self._reset()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record the learning rate of the step."""
        if self._training:
            self._rates = _rates(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Update the live line."""
        if not self._training:
            return
        now = time.monotonic()
        self._steps += 1
        self._images += _batch_size(data_batch) * get_world_size()
        self._seconds += now - self._since
        self._since = now
        if self.console.is_terminal:
            if now - self._shown >= _REFRESH:
                self._shown = now
                self.console.update(self._text(runner))
        elif now - self._shown >= PLAIN_SECONDS:
            self._print(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Print the line of an epoch, unless all its steps were done before a resume."""
        if self._training and unit_of_time(runner) == 'epoch' and self._steps and self._is_due():
            self._print(runner, ended=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Print the line of the iterations since the last validation."""
        if (
            self._training
            and unit_of_time(runner) == 'iteration'
            and self._steps
            and self._is_due()
        ):
            self._print(runner, ended=True)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show how many batches are done."""
        if self._training:
            self._count('validation', batch_idx, runner.val_dataloader)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the table of a validation, in which the best value so far is marked."""
        if not self._training:
            return
        self.console.update('', now=True)
        now = runner.epoch if unit_of_time(runner) == 'epoch' else runner.iter
        metrics = metrics or {}
        best, saved_before = best_so_far(runner, metrics, now, self._validated), self._best
        self._validated[now] = metrics
        self._best = runner.message_hub.runtime_info.get('best_ckpt')
        line, is_best = best_line(runner, saved_before), self._best != saved_before
        if self.validations:
            self.console.line()
            print_scores(self.console, metrics, best)
            if line:
                self.console.line(line, 'green' if is_best else None)
            self.console.line()
        self._best_line = line
        self._reset()

    def _is_due(self) -> bool:
        now = time.monotonic()
        if not self.validations and now - self._printed < PLAIN_SECONDS:
            return False
        self._printed = now
        return True

    def after_train(self, runner: Runner) -> None:
        """Print how long it took."""
        if self._training:
            if self._steps and unit_of_time(runner) == 'iteration':
                self._print(runner, ended=True)
            self._training = False
            if self._best_line and not self.validations:
                self.console.line(self._best_line)
            self.console.line(f'Finished in {in_words(time.monotonic() - self._start)}')

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show how many batches are done."""
        if is_main_process():
            self._count('test', batch_idx, runner.test_dataloader)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the table of a test."""
        if is_main_process():
            self.console.update('', now=True)
            self.console.line()
            self.hidden = print_scores(self.console, metrics or {})
            self.console.line()

    def _count(self, stage: str, batch_idx: int, loader: Any) -> None:
        self.console.update(f'{stage}: batch {batch_idx + 1} of {len(loader)}')

    def _reset(self) -> None:
        self._steps = self._images = 0
        self._seconds = 0.0
        self._since = self._shown = time.monotonic()

    def _print(self, runner: Runner, ended: bool = False) -> None:
        self._shown = time.monotonic()
        self.console.update('')
        self.console.line(self._text(runner, ended))

    def _text(self, runner: Runner, ended: bool = False) -> str:
        # The counter is increased after the hooks of an iteration, but before those of its epoch.
        done = runner.iter if ended else runner.iter + 1
        left, end = max(runner.max_iters - done, 0), runner.max_iters
        if unit_of_time(runner) == 'epoch':
            place = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
            if not ended:
                length = len(runner.train_dataloader)
                place += f' step {done - runner.epoch * length}/{length}'
        else:
            place = f'iteration {done}/{end}'
        passed = time.monotonic() - self._start
        parts = [place]
        if left:
            parts.append(f'{in_words(passed / max(done - self._first, 1) * left)} left')
        parts += [
            f'lr {self._rates}',
            f'{short_number(self._images / max(self._seconds, 1e-9))} images/s',
            f'{_memory()} GB',
        ]
        return wrap([*parts, *self._line.parts(self._losses(runner))], self.console.width)

    def _losses(self, runner: Runner) -> dict[str, float]:
        """Return the means since the last reset."""
        return {
            key.removeprefix('train/'): float(history.mean(max(self._steps, 1)))
            for key, history in runner.message_hub.log_scalars.items()
            if key.startswith('train/') and 'loss' in key
        }


def _rates(runner: Runner) -> str:
    rates = [
        group['lr']
        for optimizer in unwrap_optimizers(runner.optim_wrapper)
        for group in optimizer.param_groups
    ]
    low, high = f'{min(rates):.1e}', f'{max(rates):.1e}'
    return high if low == high else f'{low} to {high}'


def _memory() -> str:
    """Return the largest memory so far in GB: of the GPU, or of the process on a CPU."""
    if torch.cuda.is_available():
        return f'{torch.cuda.max_memory_allocated() / 1e9:.1f}'
    return f'{peak_memory_mib() * 2**20 / 1e9:.1f}'


def _batch_size(batch: Any) -> int:
    inputs = batch.get('inputs', ()) if isinstance(batch, Mapping) else batch
    while isinstance(inputs, Mapping):
        inputs = next(iter(inputs.values()), ())
    return len(inputs) if isinstance(inputs, Sequence | torch.Tensor) else 0
