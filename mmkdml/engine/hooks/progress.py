"""Hook that prints the progress of a training or test."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.console import Live, in_words, member_table, short_number, terminal_width
from mmkdml.engine.hooks.member_table import measures_by_member
from mmkdml.registry import HOOKS

_REFRESH = 0.25  # seconds between updates of a live line


@HOOKS.register_module()
class ProgressHook(Hook):
    """Print the progress of a run: a line per epoch, and the members' measures of validations.

    On a terminal the line of the current epoch is rewritten. Without one, it is printed at the end
    of an epoch and, in long epochs, now and then.

    Losses are means over the epoch so far. For each member its supervised loss is followed by the
    losses of its transfers: ``f`` for features and ``p`` for predictions, from ``T``, the teacher,
    or from another member, e.g. ``S2``.

    Args:
        validations: Print the table of each validation. If False, only a new best value is printed.
        live: Where to write. Default: standard output.
    """

    priority = 'LOW'  # After the metrics are known, before checkpoints are written.

    def __init__(self, validations: bool = True, live: Live | None = None) -> None:
        self.validations = validations
        self._given = live
        self._live: Any = None
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0
        self._images = 0
        self._start = self._shown = self._begin = 0.0
        self._first = 0

    def before_train(self, runner: Runner) -> None:
        """Start to measure time."""
        self._open()
        self._begin, self._first = time.monotonic(), runner.iter

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the means of an epoch."""
        self._reset()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add the losses of an iteration and show the line."""
        if self._live is None:
            return
        for key, value in (outputs or {}).items():
            if 'loss' in key:
                # A tensor is added without waiting for the GPU.
                self._sums[key] += value.detach() if isinstance(value, torch.Tensor) else value
        self._count += 1
        self._images += _batch_size(data_batch) * get_world_size()
        if time.monotonic() - self._shown >= _REFRESH:
            self._shown = time.monotonic()
            self._live.update('\n'.join(self._lines(runner)))

    def after_train_epoch(self, runner: Runner) -> None:
        """Print the line of an epoch."""
        if self._live is not None and self._count and runner._train_loop._max_epochs:
            self._live.print('\n'.join(self._lines(runner)))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the table of a validation, in which the best value so far is marked."""
        if self._live is None:
            return
        if self._count and not getattr(runner._train_loop, '_max_epochs', None):
            self._live.print('\n'.join(self._lines(runner)))
        self._reset()
        rows, best = measures_by_member(metrics or {}), _best(runner, metrics or {})
        if rows and (self.validations or best):
            title = 'validation' + (f': {best}' if best else '')
            self._live.print(f'  {title}\n{member_table(rows, indent=4)}')

    def after_train(self, runner: Runner) -> None:
        """End the live line."""
        self._close()

    def before_test(self, runner: Runner) -> None:
        """Start the live line of a test."""
        self._open()

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show how many batches are done."""
        if self._live is not None:
            self._live.update(f'testing: batch {batch_idx + 1}/{len(runner.test_dataloader)}')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the table of a test."""
        if self._live is not None:
            self._close()
            rows = measures_by_member(metrics or {})
            print(member_table(rows) if rows else _plain(metrics or {}), flush=True)

    def close(self) -> None:
        """Remove the live line, also after an error."""
        self._close()

    def _open(self) -> None:
        if is_main_process():
            self._live = self._given or Live()
            self._reset()

    def _close(self) -> None:
        if self._live is not None:
            self._live.clear()
            self._live = None

    def _reset(self) -> None:
        self._sums.clear()
        self._count = self._images = 0
        self._start = time.monotonic()

    def _lines(self, runner: Runner) -> list[str]:
        loop = runner._train_loop
        now = time.monotonic()
        done = runner.iter + 1 - self._first
        left = max(0, loop.max_iters - runner.iter - 1)
        epochs = getattr(loop, '_max_epochs', None)
        if epochs:
            inside = (runner.iter + 1) % len(runner.train_dataloader)
            place = f'epoch {runner.epoch + 1}/{epochs}'
            place += f' {inside}/{len(runner.train_dataloader)}' if inside else ''
        else:
            place = f'iteration {runner.iter + 1}/{loop.max_iters}'
        rates = [rate for values in runner.optim_wrapper.get_lr().values() for rate in values]
        parts = [
            place,
            f'{in_words((now - self._begin) / done * left)} left' if left else 'last epoch done',
            f'lr {max(rates):.1e}',
            f'{short_number(self._images / max(now - self._start, 1e-9))} images/s',
            f'{_memory_gib():.1f} GiB',
        ]
        means = {key: float(value) / self._count for key, value in self._sums.items()}
        general, losses = '  '.join(parts), loss_text(means)
        if len(general) + len(losses) + 2 <= terminal_width():
            return [f'{general}  {losses}']
        return [general, f'    {losses}']


def loss_text(losses: Mapping[str, float]) -> str:
    """Format losses by member: ``loss 1.13  teacher 0.86  student_1 0.10 (T:f 0.11 S2:p 0.001)``.

    Args:
        losses: Values by the keys of the loss dict, such as ``student_1.loss_from_teacher.features``
            and ``student_1.decode.loss_ce``.
    """
    own: dict[str, float] = defaultdict(float)
    transfers: dict[str, list[str]] = defaultdict(list)
    for key, value in losses.items():
        member, _, rest = key.partition('.')
        source, _, knowledge = rest.partition('.')
        if key == 'loss' or not rest:
            continue
        if source.startswith('loss_from_'):
            label = f'{short_member(source.removeprefix("loss_from_"))}:{knowledge[:1]}'
            transfers[member].append(f'{label} {short_number(value)}')
        else:
            own[member] += value
    parts = [f'loss {short_number(losses["loss"])}'] if 'loss' in losses else []
    for member in dict.fromkeys([*own, *transfers]):
        inner = f' ({" ".join(transfers[member])})' if transfers[member] else ''
        value = f' {short_number(own[member])}' if member in own else ''
        parts.append(f'{member}{value}{inner}')
    return '  '.join(parts)


def short_member(name: str) -> str:
    """Abbreviate a member's name: ``T`` for the teacher, ``S2`` for ``student_2``."""
    stem, _, number = name.rpartition('_')
    return f'{stem[:1]}{number}'.upper() if number.isdigit() else name[:1].upper()


def _best(runner: Runner, metrics: Mapping[str, float]) -> str:
    """Describe the best monitored value so far, which the checkpoint hook compares next."""
    hook = next((one for one in runner.hooks if hasattr(one, 'key_indicators')), None)
    texts = []
    for key, rule in zip(
        getattr(hook, 'key_indicators', ()), getattr(hook, 'rules', ()), strict=False
    ):
        if key not in metrics:
            continue
        single = len(hook.key_indicators) == 1  # type: ignore[union-attr]
        before = runner.message_hub.runtime_info.get(
            'best_score' if single else f'best_score_{key}'
        )
        value = metrics[key]
        is_best = before is None or (value > before if rule == 'greater' else value < before)
        name = key.replace('/', ' ')
        if is_best:
            texts.append(f'{name} {value:.2f}, best so far')
        elif before is not None:
            texts.append(f'{name} {value:.2f} (best so far {before:.2f})')
    return '; '.join(texts)


def _plain(metrics: Mapping[str, Any]) -> str:
    return '\n'.join(f'  {key}: {value}' for key, value in metrics.items())


def _batch_size(batch: Any) -> int:
    inputs = batch.get('inputs', ()) if isinstance(batch, Mapping) else batch
    while isinstance(inputs, Mapping):
        inputs = next(iter(inputs.values()), ())
    return len(inputs) if isinstance(inputs, Sequence | torch.Tensor) else 0


def _memory_gib() -> float:
    """Return the largest memory so far: of the GPU's tensors, or of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == 'darwin' else 2**20)
