"""Execution of one run of a suite: train or resume, test two checkpoints, write the result.

Workers start it as ``python -m mmkdml.experiments SPEC.json``, with torchrun if the run has several
processes. It exits when its standard input is closed, i.e., when the worker exits.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmkdml.apis import load_weights, make_runner, newest_checkpoint
from mmkdml.apis.folds import left_out_options
from mmkdml.apis.machine import device_name
from mmkdml.apis.run.checkpoints import checkpoint_number
from mmkdml.apis.run.settings import other_settings_error
from mmkdml.commands import tool_command
from mmkdml.datasets import SplitFileMixin, read_split
from mmkdml.datasets.splits import split_counts
from mmkdml.evaluation import CaseTable
from mmkdml.evaluation.clinical.segmentation import clinical_cases
from mmkdml.experiments.run_spec import (
    RunSpec,
    run_config,
    set_teacher,
    settings_changes,
    settings_text,
    teacher_option,
)
from mmkdml.experiments.suites.execution.fold_data import write_teachers
from mmkdml.experiments.suites.execution.processes import exit_when_stdin_closes
from mmkdml.experiments.suites.serialization import RESULT, serialize_result
from mmkdml.files import write_atomically
from mmkdml.inspection import inspect_config, member_complexities
from mmkdml.models.checkpoints import resolve_checkpoint
from mmkdml.statistics.records import Measurement

SETTINGS = 'settings.json'
_PACKAGES = (
    'mmkdml', 'torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation',
    'onedl-mmdetection', 'albumentations', 'timm', 'numpy',
)  # fmt: skip


def execute(
    spec: RunSpec,
    work_dir: Path,
    teacher: Path | Sequence[Path | None] | None,
    launcher: str,
    registered: str | None = None,
) -> None:
    """Train or resume a run, and test its best and last checkpoints.

    Args:
        spec: The run.
        work_dir: Folder of the run, for checkpoints, logs and, at the end, ``result.json.gz``.
        teacher: Folder of the teacher's run; or of each of ``fold_teachers``.
        launcher: See :func:`mmkdml.apis.make_runner`.
        registered: Settings text with which the suite was started.

    Raises:
        ValueError: If settings or data differ from those of an earlier run in the folder or from
            ``registered``, or if the config is invalid.
    """
    start = time.monotonic()  # not negative if the clock is set
    config = run_config(spec, work_dir)
    settings = settings_text(config)
    if registered and (changes := settings_changes(registered, settings)):
        fix = 'Undo the change, or start the suite in another --work-dir'
        raise other_settings_error('The suite was started', changes, fix)
    _check_settings(work_dir, settings)
    if isinstance(teacher, Sequence):
        teacher = write_teachers(work_dir, config, teacher)
    if teacher is not None:
        set_teacher(config, teacher)
    config.experiment_name = re.sub(r'\W', '_', f'{spec.key}_{time.time_ns()}')
    config.resume, config.load_from = True, None
    runner = make_runner(config, launcher)
    runner.train()
    case_table = CaseTable()
    case_table.dataset_meta = getattr(runner.test_dataloader.dataset, 'metainfo', None)
    runner.test_loop.evaluator.metrics.append(case_table)

    measured: dict[str, Measurement] = {}
    epochs: dict[str, int] = {}
    for name, checkpoint in _checkpoints(runner).items():
        epochs[name] = checkpoint_number(checkpoint)
        if measured and epochs[name] == epochs['last']:  # the last epoch was the best
            measured[name] = measured['last']
            continue
        load_weights(runner, checkpoint)
        metrics = runner.test()
        cases = clinical_cases(case_table.table, runner.test_loop.evaluator.metrics)
        measured[name] = Measurement(metrics, cases)
    if is_main_process():
        metadata = _metadata(spec, config, runner, teacher)
        metadata.update(seconds=time.monotonic() - start, checkpoints=epochs)
        write_atomically(
            work_dir / RESULT, serialize_result(measured, read_curves(work_dir), metadata)
        )


def read_curves(work_dir: Path) -> pd.DataFrame:
    """Read the values that mmengine logged during a run, including interrupted attempts.

    Returns:
        Columns ``epoch, key, value``. Training values are means over the logged steps of an epoch.
        If a step was repeated after an interruption, only its last values are used.
    """
    rows = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(errors='replace').splitlines():
            values = _logged_values(line)
            # Validations log their epoch as the step.
            epoch, step = values.get('epoch', values.get('step')), values.get('step')
            rows += [
                (epoch, step, key, math.nan if value is None else float(value))
                for key, value in values.items()
                if key not in ('epoch', 'iter', 'step', 'time', 'data_time', 'memory')
                and isinstance(value, (int, float, NoneType))
            ]
    table = pd.DataFrame(rows, columns=['epoch', 'step', 'key', 'value'])
    table = table.drop_duplicates(['epoch', 'step', 'key'], keep='last')
    return table.groupby(['epoch', 'key'], as_index=False)['value'].mean()


def _logged_values(line: str) -> dict[str, Any]:
    """Parse a line of a log; empty if the line is truncated (process killed, disk full)."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    is_valid = isinstance(values, dict) and all(
        type(values.get(key, 0)) is int for key in ('epoch', 'step')
    )
    return values if is_valid else {}


def _check_settings(work_dir: Path, settings: str) -> None:
    path = work_dir / SETTINGS
    before = path.read_text() if path.is_file() else ''
    if before and (changes := settings_changes(before, settings)):
        raise other_settings_error(
            f'{work_dir} has a run', changes, 'Move it away, or choose another folder'
        )
    if before != settings and is_main_process():
        work_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, settings.encode())


def _checkpoints(runner: Runner) -> dict[str, Path]:
    last = newest_checkpoint(Path(runner.work_dir))
    if last is None:
        raise ValueError(
            f'No checkpoint epoch_*.pth or iter_*.pth in {runner.work_dir}. Configure '
            'default_hooks.checkpoint so that checkpoints are kept'
        )
    # The best checkpoint is tested last, so that pictures of its test are kept.
    return dict(last=last, best=resolve_checkpoint(Path(runner.work_dir)))


def _metadata(
    spec: RunSpec, config: Config, runner: Runner, teacher: Path | None
) -> dict[str, Any]:
    options = dict(spec.options)
    if teacher is not None:
        options[teacher_option(config)] = teacher
    command = [*tool_command('train').split(), spec.config, '--seed', str(spec.seed)]
    if spec.fold is not None:
        command += ['--fold', str(spec.fold)]
    if spec.without is not None:
        options |= left_out_options(config)
    command += ['--work-dir', str(runner.work_dir)] + ['--amp'] * spec.amp
    if options:
        command += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    inspection = inspect_config(config)
    return dict(
        config=spec.config,
        config_text=config.dump(),
        command=shlex.join(command),
        device=device_name(device),
        versions=_versions(),
        splits=_splits(runner),
        input_size=list(inspection.input_size),
        members={
            one.name: dict(parameters=one.parameters, flops=2 * one.multiply_adds)
            for one in member_complexities(inspection)
        },
    )


def _versions() -> dict[str, str]:
    versions = {'python': platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):  # detection is an extra
            versions[package] = version(package)
    return versions


def _splits(runner: Runner) -> dict[str, dict[str, int]]:
    counts = {}
    for part in ('train', 'val', 'test'):
        dataset = getattr(runner, f'{part}_dataloader').dataset
        images = len(dataset)
        counts[part] = dict(images=images)
        if isinstance(dataset, SplitFileMixin):
            in_file = split_counts(read_split(dataset.ann_file))
            if in_file.get('samples', in_file['images']) == images:  # not a subset by `indices`
                counts[part] = in_file
    return counts


def main() -> None:
    """Execute the run that a JSON file specifies."""
    exit_when_stdin_closes()
    content = json.loads(Path(sys.argv[1]).read_text())
    teacher: Any = content.pop('teacher_dir')
    if isinstance(teacher, list):
        teacher = [one and Path(one) for one in teacher]
    else:
        teacher = teacher and Path(teacher)
    work_dir = Path(content.pop('work_dir'))
    launcher = 'pytorch' if 'LOCAL_RANK' in os.environ else 'none'
    registered = content.pop('registered', None)
    content.pop('worker', None)
    execute(RunSpec(**content), work_dir, teacher, launcher, registered)
