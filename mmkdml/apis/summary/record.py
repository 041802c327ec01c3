"""Record of a call: command, members, data, environment and how it ended.

Each training and test writes ``call_<kind>.json`` to the folder of its log.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmkdml.apis.machine import device_name
from mmkdml.apis.summary.redaction import hide_secrets
from mmkdml.commands import own_command
from mmkdml.datasets.splits import read_split, split_counts
from mmkdml.engine.memory import peak_memory_mib
from mmkdml.engine.unwrap import unwrap_model
from mmkdml.files import json_text, own_file, write_atomically
from mmkdml.inspection.config import inspect_model
from mmkdml.names import SPLITS
from mmkdml.version import __version__

TRAIN, TEST = 'train', 'test'
RUNNING, FINISHED, STOPPED, FAILED = 'running', 'finished', 'stopped', 'failed'
_PACKAGES = {
    'torch': 'torch', 'torchvision': 'torchvision', 'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv', 'mmpretrain': 'onedl-mmpretrain',
    'mmsegmentation': 'onedl-mmsegmentation', 'mmdet': 'onedl-mmdetection', 'timm': 'timm',
    'numpy': 'numpy',
}  # fmt: skip

_TRANSFER = ('source', 'arrow', 'learner', 'knowledge', 'weight', 'loss')


class RecordHook(Hook):
    """Record a call when its training or test starts; :func:`recorded` records how it ends.

    :func:`mmkdml.apis.make_runner` adds it.
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Record a training."""
        self._start(runner, TRAIN)

    def before_test(self, runner: Runner) -> None:
        """Record a test."""
        self._start(runner, TEST)

    def _start(self, runner: Runner, kind: str) -> None:
        if is_main_process():
            record = dict(
                kind=kind,
                status=RUNNING,
                start=_now(),
                start_iter=runner.iter if kind == TRAIN else None,
                **_progress(runner),
                command=hide_secrets(shlex.join(own_command())),
                processes=get_world_size(),
                environment=_environment(runner),
                data=_data(runner),
                **_model(runner),
            )
            runner.call_record = record
            _write(runner, record)


@contextmanager
def recorded(runner: Runner, kind: str) -> Iterator[None]:
    """Record how a call ends, and update the summary of its run.

    Problems of the record or the summary are logged; they never replace the error of the call.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        text = '' if stopped else hide_secrets(f'{type(error).__name__}: {error}')
        _end(runner, kind, STOPPED if stopped else FAILED, text)
        raise
    _end(runner, kind, FINISHED, '')


def _end(runner: Runner, kind: str, status: str, error: str) -> None:
    record = getattr(runner, 'call_record', None)
    if record is None or record['kind'] != kind:
        return  # it has not started, or belongs to another process
    del runner.call_record
    try:
        record.update(status=status, error=error[:2000], end=_now(), memory_mb=_memory())
        record.update(_progress(runner))
        _write(runner, record)
        from mmkdml.apis.summary.page import write_summary  # imports matplotlib

        write_summary(runner.work_dir)
    except Exception as problem:
        with suppress(Exception):
            runner.logger.warning(f'The summary of the run is not written: {problem}')


def _write(runner: Runner, record: Mapping[str, Any]) -> None:
    folder = Path(runner.log_dir).relative_to(runner.work_dir)
    path = own_file(runner.work_dir, folder, f'call_{record["kind"]}.json')
    write_atomically(path, f'{json_text(record, indent=1)}\n'.encode())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')


def _progress(runner: Runner) -> dict[str, Any]:
    loop = runner._train_loop
    if not isinstance(loop, BaseLoop):  # a test
        return {}
    return dict(
        epoch=runner.epoch, iter=runner.iter, max_epochs=runner.max_epochs,
        max_iters=runner.max_iters,
        by_epoch=hasattr(loop, 'run_epoch'),
    )  # fmt: skip


def _environment(runner: Runner) -> dict[str, Any]:
    wrapper = runner.cfg.get('optim_wrapper') or {}
    kind = str(getattr(wrapper.get('type'), '__name__', wrapper.get('type')))
    precision = 'float32'
    if 'Amp' in kind:
        dtype = wrapper.get('dtype') or ('bfloat16' if 'CPU' in kind else 'float16')
        precision = f'{dtype} (mixed precision)'
    versions = {'mmkdml': __version__, 'python': platform.python_version()}
    for name, package in _PACKAGES.items():
        with suppress(PackageNotFoundError):
            versions[name] = version(package)
    device = next(unwrap_model(runner.model).parameters()).device
    return dict(
        device=device_name(device), precision=precision, seed=runner.seed,
        system=platform.platform(terse=True), versions=versions,
    )  # fmt: skip


def _memory() -> dict[str, float]:
    """Return the highest memory of this process in MiB."""
    found = {}
    with suppress(ImportError):  # Windows
        found['main'] = peak_memory_mib()
    if torch.cuda.is_available():
        found['gpu'] = torch.cuda.max_memory_allocated() / 2**20
    return found


def _data(runner: Runner) -> dict[str, dict[str, Any]]:
    """Describe the split files of the config: counts, and images by class."""
    found = {}
    for part in SPLITS:
        loader = runner.cfg.get(f'{part}_dataloader')
        dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
        if not isinstance(dataset, Mapping):
            continue
        kind = dataset.get('type')
        one: dict[str, Any] = dict(type=str(getattr(kind, '__name__', kind)))
        one['file'] = os.fspath(dataset.get('ann_file') or '')
        with suppress(OSError, ValueError, TypeError):
            rows = read_split(one['file'])
            one.update(split_counts(rows))
            if rows[0].labels is None:
                one['labels'] = Counter(row.label for row in rows)
            else:  # images with several classes, or with boxes of them
                one['names'] = Counter(name for row in rows for name in row.labels or ())
        found[part] = one
    return found


def _model(runner: Runner) -> dict[str, Any]:
    model = unwrap_model(runner.model)
    loops = [one for one in (runner._train_loop, runner._test_loop) if isinstance(one, BaseLoop)]
    dataset = loops[0].dataloader.dataset if loops else None
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    found: dict[str, Any] = dict(
        model=type(model).__name__, classes=list(classes) if classes else None, transfers=[]
    )
    members: dict[str, nn.Module] = {}
    with suppress(Exception):  # a network of another library
        inspection = inspect_model(model)
        members = inspection.members
        found['task'] = type(inspection.task).__name__.removesuffix('Task').lower()
    frozen = set(getattr(model, 'frozen_names', ()))
    found['members'] = [
        dict(
            name=name,
            network=_network(member),
            parameters=sum(one.numel() for one in member.parameters()),
            trained=name not in frozen,
        )
        for name, member in (members or {'model': model}).items()
    ]
    for term in getattr(model, 'transfer_terms', ()):
        columns = term.transfer.columns()
        found['transfers'].append(
            dict(zip(_TRANSFER, columns, strict=False), key=term.key, more=', '.join(columns[6:]))
        )
    return found


def _network(member: nn.Module) -> str:
    parts = [member]
    parts += [
        getattr(member, name)
        for name in ('backbone', 'decode_head', 'head')
        if isinstance(getattr(member, name, None), nn.Module)
    ]
    names = [type(one).__name__ for one in parts]
    if depth := getattr(getattr(member, 'backbone', None), 'depth', None):
        names[1] += f'-{depth}'
    return f'{names[0]} ({", ".join(names[1:])})' if names[1:] else names[0]
