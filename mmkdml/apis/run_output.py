"""What a run prints: a header, warnings and progress. The whole log is in its file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmkdml.console import short_number
from mmkdml.engine.hooks.progress import short_member
from mmkdml.engine.unwrap import unwrap_model, unwrap_optim_wrappers
from mmkdml.inspection.complexity import count_parameters
from mmkdml.names import PLAIN, SPLITS

_MAX_TRANSFERS = 8  # more are counted only


class _Stderr:
    """Standard error at the time of writing, which a live line replaces."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _ShortFormatter(logging.Formatter):
    """``warning: <message>`` without time and name."""

    def format(self, record: logging.LogRecord) -> str:
        return f'{record.levelname.lower()}: {record.getMessage()}'


def only_warnings(logger: logging.Logger) -> None:
    """Make a logger print only warnings and errors; its files are unchanged."""
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(
            handler, logging.FileHandler
        ):
            handler.setLevel(max(handler.level, logging.WARNING))
            handler.setFormatter(_ShortFormatter())
            handler.setStream(_Stderr())


class HeaderHook(Hook):
    """Print what is trained or tested, on what data, and where it is written.

    Args:
        command: Command that resumes the run, without its last option ``--resume``.
    """

    priority = 'VERY_LOW'  # After a checkpoint was loaded.

    def before_train(self, runner: Runner) -> None:
        """Print the header of a training."""
        if is_main_process():
            print('\n'.join(_training_lines(runner)), flush=True)

    def before_test(self, runner: Runner) -> None:
        """Print the header of a test."""
        if is_main_process():
            print('\n'.join(_test_lines(runner)), flush=True)


def _training_lines(runner: Runner) -> Iterator[str]:
    model = unwrap_model(runner.model)
    yield f'training {runner.cfg.filename or type(model).__name__}'
    yield from _member_lines(model)
    yield from _transfer_lines(model)
    parts = [f'{part} {count}' for part in SPLITS if (count := _count(runner, part))]
    yield f'  data       {", ".join(parts)}'
    yield f'  device     {_device(runner)}'
    loop, batch = runner._train_loop, runner.train_dataloader.batch_size
    epochs = getattr(loop, '_max_epochs', None)
    length = f'{epochs} epochs of {len(runner.train_dataloader)}' if epochs else f'{loop.max_iters}'
    yield f'  length     {length} iterations, batch size {batch or "by batch sampler"}'
    if runner.iter:
        yield f'  resumed    after epoch {runner.epoch}, iteration {runner.iter}'
    yield f'  output     {_shown(runner.work_dir)} (log: {_log_file(runner)})'
    yield f'  stop       Ctrl-C; continue with: python tools/train.py {_shown(runner.work_dir)} --resume'
    if getattr(model, 'transfers', None):
        yield '  progress   losses as in "student_1 own (T:f x)": f features, p predictions, from T = teacher'
    yield ''


def _test_lines(runner: Runner) -> Iterator[str]:
    path = getattr(runner, 'tested_checkpoint', (None,))[0]
    yield f'testing {_shown(path) if path else runner.cfg.filename} on {_count(runner, "test")}'
    yield f'  device     {_device(runner)}'
    yield f'  output     {_shown(runner.work_dir)} (log: {_log_file(runner)})'


def _member_lines(model: nn.Module) -> Iterator[str]:
    members = model.named_members() if hasattr(model, 'named_members') else {PLAIN: model}
    frozen = getattr(model, 'frozen_names', ())
    width = max(9, *map(len, members))
    for name, member in members.items():
        state = 'frozen' if name in frozen else 'trained'
        parts = (
            getattr(member, part, None) for part in ('backbone', 'neck', 'decode_head', 'head')
        )
        kinds = ' + '.join(type(part).__name__ for part in parts if part is not None)
        count = count_parameters(member) / 1e6
        yield f'  {name:{width}}  {kinds or type(member).__name__}, {count:.2f} M parameters, {state}'


def _transfer_lines(model: nn.Module) -> Iterator[str]:
    transfers = getattr(model, 'transfers', None)
    if transfers is None:
        return
    if not transfers:
        yield '  transfers  none'
    for place, transfer in enumerate(transfers):
        if place == _MAX_TRANSFERS - 1 and len(transfers) > _MAX_TRANSFERS:
            yield f'             ... and {len(transfers) - place} more'
            return
        route = f'{transfer.source} -> {transfer.learner}'
        label = f'{short_member(transfer.source)}:{transfer.knowledge[:1]}'
        yield (
            f'  {"transfers" if not place else "":9}  {route}: {transfer.knowledge}, weight '
            f'{short_number(transfer.weight)} ({label})'
        )


def _count(runner: Runner, part: str) -> str:
    """Return the number of images of a part, and of groups if they are known."""
    loader = getattr(runner, f'_{part}_dataloader', None)
    loop = getattr(runner, f'_{part}_loop', None)
    dataset: Any = getattr(getattr(loop, 'dataloader', loader), 'dataset', None)
    if dataset is None:
        return ''
    groups = {row['group'] for row in getattr(dataset, 'data_list', ()) or () if 'group' in row}
    more = f' of {len(groups)} groups' if 1 < len(groups) < len(dataset) else ''
    return f'{len(dataset)} images{more}'


def _device(runner: Runner) -> str:
    kind = next(unwrap_model(runner.model).parameters()).device
    name = (
        torch.cuda.get_device_name(kind)
        if kind.type == 'cuda'
        else f'CPU, {torch.get_num_threads()} threads'
    )
    wrappers = list(unwrap_optim_wrappers(runner.optim_wrapper)) if runner.optim_wrapper else []
    dtypes = {
        str(getattr(one, 'cast_dtype', None) or 'float32').rpartition('.')[2] for one in wrappers
    }
    processes = f', {get_world_size()} processes' if get_world_size() > 1 else ''
    return f'{name}, {", ".join(sorted(dtypes)) or "float32"}{processes}'


def _log_file(runner: Runner) -> str:
    return _shown(Path(runner.log_dir) / f'{runner.timestamp}.log')


def _shown(path: str | Path) -> str:
    """Return a path relative to the current folder if it is inside of it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith('..') else relative
