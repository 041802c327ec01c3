"""Header, warnings and last lines of a run on the console. The whole log is in its file."""

from __future__ import annotations

import logging
import os
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmkdml.apis.run.results import RESULTS_CSV, RESULTS_JSON, load_results
from mmkdml.commands import tool_command
from mmkdml.console import Console, get_console, wrap
from mmkdml.datasets.base import SplitFileMixin
from mmkdml.datasets.splits import read_split, split_counts
from mmkdml.engine.hooks.loss_line import LossLine, ShownTransfer
from mmkdml.engine.unwrap import unwrap_model, unwrap_optim_wrappers, unwrap_optimizers
from mmkdml.inspection.complexity import count_parameters
from mmkdml.names import INTERRUPTED, PLAIN, TTA

_STYLES = {logging.WARNING: 'yellow', logging.ERROR: 'bold red', logging.CRITICAL: 'bold red'}
# More transfers are listed in one line per learner.
_MOST_TRANSFERS = 6
# Outputs of a test in the folder of a run.
_OUTPUTS = (RESULTS_CSV, 'summary.html', 'cases.csv', 'panels', 'calibration', 'confusion')


_fill = partial(
    textwrap.fill, subsequent_indent=' ' * 10, break_long_words=False, break_on_hyphens=False
)


class _ConsoleHandler(logging.Handler):
    """Writes warnings, errors, and information with ``extra=ON_CONSOLE``."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            text = f'{record.levelname.lower()}: {record.getMessage()}'
            get_console().line(text, _STYLES.get(record.levelno))
        elif getattr(record, 'on_console', False):
            get_console().line(record.getMessage())


def only_warnings(logger: logging.Logger) -> None:
    """Make a logger print only warnings, errors and lines that are marked; files are unchanged.

    Processes other than the main one print only errors, as before.
    """
    for place, handler in enumerate(logger.handlers):
        if type(handler) is logging.StreamHandler:
            new = _ConsoleHandler(handler.level)
            for one in handler.filters:  # of repeated warnings
                new.addFilter(one)
            logger.handlers[place] = new


class HeaderHook(Hook):
    """Print what is trained or tested, on what data, and where it is written."""

    priority = 'VERY_LOW'  # After a checkpoint was loaded.

    def before_train(self, runner: Runner) -> None:
        """Print the header of a training."""
        if is_main_process():
            console, model = get_console(), unwrap_model(runner.model)
            line = LossLine(model)
            name = _shown(runner.cfg.filename or type(model).__name__)
            console.line(f'training  {name}', 'bold')
            console.line()
            _print_members(model, line, console)
            _print_transfers(line.transfers, console)
            console.line()
            _print_fields(_training_fields(runner, line), console)
            console.line()

    def before_test(self, runner: Runner) -> None:
        """Print the header of a test."""
        if is_main_process():
            _print_fields(_test_fields(runner), get_console())


def print_end(runner: Runner, hidden: int | None = None) -> None:
    """Print where the results of a run are.

    Args:
        runner: The runner, after its training or test.
        hidden: Number of metrics of a test that were not printed; None after a training.
    """
    if not is_main_process():
        return
    folder, console = Path(runner.work_dir), get_console()
    if hidden is None:
        fields = [('test', f'{tool_command("test")} {_shown(folder)}')]
        if (folder / 'summary.html').is_file():
            fields.insert(0, ('summary', _shown(folder / 'summary.html')))
    else:
        names = [name for name in _outputs(runner.cfg) if (folder / name).exists()]
        fields = [('written', f'{_shown(folder)}: {", ".join(names)}')] if names else []
        if hidden > 0 and RESULTS_CSV in names:
            fields.append(('all', f'{hidden} further measures are in {RESULTS_CSV}'))
    _print_fields(fields, console)


def _outputs(config: Any) -> list[str]:
    if TTA not in config:
        return list(_OUTPUTS)
    return [*_OUTPUTS[:2], *(f'{TTA}/{name}' for name in _OUTPUTS[2:])]


def earlier_validations(runner: Runner) -> dict[int, dict[str, float]]:
    """Return the metrics of a run's validations by epoch or iteration, from its results."""
    if not Path(runner.work_dir, RESULTS_JSON).is_file():
        return {}
    by_iter = isinstance(runner.train_loop, IterBasedTrainLoop)
    return {
        one['iter' if by_iter else 'epoch']: {
            f'{value["member"]}/{value["measure"]}': value['value'] for value in one['values']
        }
        for one in load_results(runner.work_dir).evaluations
        if one['split'] == 'val'
    }


def _print_fields(fields: Iterable[tuple[str, str]], console: Console) -> None:
    for name, text in fields:
        console.line(_fill(f'{name:<9} {text}', console.width))


def _print_members(model: Any, line: LossLine, console: Console) -> None:
    members = model.named_members() if line.short else {PLAIN: model}
    frozen = getattr(model, 'frozen_names', ())
    rows = [
        [
            name,
            *([line.short[name]] if line.short else []),
            f'{count_parameters(member):,}',
            'frozen' if name in frozen else 'trained',
            _network(member),
        ]
        for name, member in members.items()
    ]
    extra = sum(map(count_parameters, getattr(model, 'transfer_modules', ())))
    if extra:
        rows.append(['(transfers)', '', f'{extra:,}', 'trained', 'projectors and losses'])
    short = ['short'] if line.short else []
    header = ['member', *short, 'parameters', '', 'network']
    numbers = header.index('parameters')
    console.table(header, rows, left={*range(len(header))} - {numbers})


def _network(member: Any) -> str:
    parts = (getattr(member, name, None) for name in ('backbone', 'neck', 'decode_head', 'head'))
    named = [type(one).__name__ for one in parts if one is not None]
    return ' + '.join(named) or type(member).__name__


def _print_transfers(transfers: Sequence[ShownTransfer], console: Console) -> None:
    if not transfers:
        return
    console.line()
    if len(transfers) > _MOST_TRANSFERS:
        by_learner: dict[str, list[str]] = defaultdict(list)
        for one in transfers:
            by_learner[one.learner].append(f'{one.label} {one.columns[4]}')
        console.line('transfers and their weights')
        for learner, texts in by_learner.items():
            console.line(wrap([f'{learner}:', *texts], console.width))
        return
    rows = [
        (one.label, f'{one.columns[0]} -> {one.columns[2]}', *one.columns[3:]) for one in transfers
    ]
    console.table(['', 'transfer', 'knowledge', 'weight', 'loss'], rows, left=(0, 1, 2, 4))
    for one in transfers:
        if one.schedule:
            console.line(wrap([f'weight of {one.label}: {one.schedule}'], console.width))


def _training_fields(runner: Runner, line: LossLine) -> Iterator[tuple[str, str]]:
    yield 'data', ', '.join(f'{part} {count}' for part, count in _counts(runner))
    yield 'device', _device(runner)
    yield 'schedule', _schedule(runner)
    if runner.iter:
        by_iter = isinstance(runner.train_loop, IterBasedTrainLoop)
        place = f'iteration {runner.iter + 1} of {runner.max_iters}'
        if not by_iter:
            place = f'epoch {runner.epoch + 1} of {runner.max_epochs} ({place})'
        yield 'start', f'resumed at {place}, from {_shown(runner.cfg.load_from)}'
    yield 'output', f'{_shown(runner.work_dir)} (log: {_log_file(runner)})'
    if not runner.iter:
        yield 'stop', f'Ctrl-C, which saves {INTERRUPTED} in that folder after the current step'
        yield 'resume', f'{tool_command("train")} {_shown(runner.work_dir)} --resume'
    if line.transfers:
        one = line.transfers[0]
        source, learner, knowledge = one.columns[0], one.columns[2], one.columns[3]
        letter = line.short[learner]
        yield (
            'losses',
            f'"{letter} 0.50 ({one.label} 0.10)": {learner} 0.50, and 0.10 for the {knowledge} of '
            f'{source}',
        )


def _test_fields(runner: Runner) -> Iterator[tuple[str, str]]:
    data: Any = runner.test_dataloader.dataset
    path = getattr(runner, 'tested_checkpoint', (None,))[0]
    source = getattr(data, 'ann_file', None) or getattr(data, 'data_root', None)
    yield 'test', _shown(path) if path else str(runner.cfg.filename)
    yield 'data', f'{_count(data)} ({_shown(source) if source else type(data).__name__})'
    if TTA in runner.cfg:
        yield 'views', f'{runner.cfg[TTA]["views"]} (test-time augmentation)'
    yield 'device', _device(runner)


def _counts(runner: Runner) -> Iterator[tuple[str, str]]:
    data = runner.train_dataloader.dataset
    yield 'train', _count(data)
    if runner.val_loop is not None:
        yield 'val', _count(runner.val_dataloader.dataset)
    settings: Mapping[str, Any] = (runner.cfg.get('test_dataloader') or {}).get('dataset') or {}
    path = settings.get('ann_file')
    if isinstance(data, SplitFileMixin) and path and os.path.isfile(path):
        yield 'test', _count_rows(path)


def _count(data: Any) -> str:
    return (
        _count_rows(data.ann_file) if isinstance(data, SplitFileMixin) else f'{len(data):,} images'
    )


def _count_rows(path: str) -> str:
    counts = split_counts(read_split(path))
    text = f'{counts["images"]:,} images'
    if 1 < counts['groups'] < counts['images']:
        text += f' of {counts["groups"]:,} groups'
    return f'{text} ({counts["samples"]:,} samples)' if 'samples' in counts else text


def _device(runner: Runner) -> str:
    device = next(unwrap_model(runner.model).parameters()).device
    if device.type == 'cuda':
        text = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        text = f'{device.type.upper()}, {threads} thread{"s" if threads > 1 else ""}'
    wrapper: Any = runner.optim_wrapper
    wrappers = (
        [] if wrapper is None or isinstance(wrapper, dict) else unwrap_optim_wrappers(wrapper)
    )
    dtypes = dict.fromkeys(map(_precision, wrappers)) or ['float32']
    text += f', {" and ".join(dtypes)}'
    return text if get_world_size() == 1 else f'{text}, {get_world_size()} processes'


def _precision(wrapper: Any) -> str:
    dtype = getattr(wrapper, 'cast_dtype', None)
    if dtype is not None:
        return str(dtype).removeprefix('torch.')
    kind = type(wrapper).__name__
    return {'CPUAmpOptimWrapper': 'bfloat16', 'AmpOptimWrapper': 'float16'}.get(kind, 'float32')


def _schedule(runner: Runner) -> str:
    loader: Any = runner.train_dataloader
    text = f'{runner.max_iters:,} iterations'
    if not isinstance(runner.train_loop, IterBasedTrainLoop):
        text = (
            f'{runner.max_epochs:,} epoch{"s" * (runner.max_epochs > 1)} of {len(loader):,} steps'
        )
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    text += f', batch size {batch}' if batch else ''
    text += ' per process' if batch and get_world_size() > 1 else ''
    optimizers = list(unwrap_optimizers(runner.optim_wrapper))
    rates = {
        group.get('initial_lr', group['lr']) for one in optimizers for group in one.param_groups
    }
    names = ' and '.join(dict.fromkeys(type(one).__name__ for one in optimizers))
    return f'{text}, {names} at {max(rates):g}, seed {runner.seed}'


def _log_file(runner: Runner) -> str:
    return f'{Path(runner.log_dir).name}/{runner.timestamp}.log'


def _shown(path: Any) -> str:
    """Return a path relative to the current folder if it is inside of it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith('..') else relative
