"""One run of a suite in a process of its own: train or go on, test two checkpoints, say so.

``python -m mmkdml.experiments SPEC.json`` is what a worker starts, under torchrun if a run
has several processes. It ends when its standard input does, that is, with the worker.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmkdml.apis import load_config, load_weights, make_runner, newest_checkpoint, use_amp
from mmkdml.apis.run_checkpoints import checkpoint_number
from mmkdml.apis.run_settings import TRAINING_PARTS, deciding_settings, difference
from mmkdml.datasets import SplitFileMixin, read_split
from mmkdml.datasets.splits import split_counts
from mmkdml.evaluation import CaseTable
from mmkdml.experiments.suites.serialization import pack_result
from mmkdml.experiments.suites.suite import RunSpec
from mmkdml.files import write_atomically
from mmkdml.inspection import inspect_config, member_complexities
from mmkdml.models.checkpoints import resolve_checkpoint
from mmkdml.models.classroom_configs import frozen_checkpoint_option
from mmkdml.names import TEACHER
from mmkdml.statistics.records import Measurement

RESULT = 'result.json.gz'
SETTINGS = 'settings.json'
# A run of a suite is also tested, and its seed is known.
_DECIDING = (
    *(part for part in TRAINING_PARTS if part != 'randomness'),
    'test_dataloader', 'test_evaluator', 'test_cfg',
)  # fmt: skip
_PACKAGES = (
    'mmkdml', 'torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation',
    'albumentations', 'timm', 'numpy',
)  # fmt: skip


def run_config(spec: RunSpec, work_dir: str | Path, teacher: str | Path | None = None) -> Config:
    """The config of a run.

    Args:
        spec: The run.
        work_dir: Folder of its log and checkpoints.
        teacher: Folder of its teacher's run.
    """
    config = load_config(spec.config, _options(spec, teacher), work_dir)
    config.randomness = dict(config.get('randomness') or {}, seed=spec.seed)
    if spec.amp:
        use_amp(config)
    return config


def _options(spec: RunSpec, teacher: str | Path | None) -> dict[str, Any]:
    options = dict(spec.options)
    if teacher is not None:
        model = load_config(spec.config).model
        options[frozen_checkpoint_option(model, TEACHER)] = str(teacher)
    return options


def settings_text(spec: RunSpec) -> str:
    """Settings and data that decide a run's outcome, without its seed, as JSON.

    Compare two of them with :func:`mmkdml.apis.run_settings.difference`. Data that are missing have
    no hash.
    """
    config = run_config(spec, work_dir='', teacher=spec.teacher)
    return json.dumps(deciding_settings(config, _DECIDING), indent=1, sort_keys=True)


def execute(
    spec: RunSpec,
    work_dir: Path,
    teacher: Path | None,
    launcher: str,
    registered: str | None = None,
) -> None:
    """Trains, or goes on from the newest whole checkpoint, and tests the best and the last one.

    Args:
        spec: The run.
        work_dir: Folder of its files; ``result.json.gz`` appears there when all is done.
        teacher: Folder of its teacher's run.
        launcher: As of :func:`mmkdml.apis.make_runner`.
        registered: The settings text with which the suite was started.

    Raises:
        ValueError: If the folder holds a run of other settings or data, they have changed since the
            suite was started, or the config cannot be used.
    """
    begun = time.time()
    settings = settings_text(spec)
    if registered and (changes := difference(registered, settings)):
        raise ValueError(
            f'Settings or data have changed since the suite was started:\n{changes}\nUndo the '
            'change, or start the suite in another --work-dir'
        )
    _refuse_other_settings(work_dir, settings)
    config = run_config(spec, work_dir, teacher)
    config.experiment_name = re.sub(r'\W', '_', f'{spec.key}_{time.time_ns()}')
    config.resume, config.load_from = True, None
    case_table = CaseTable()
    evaluators = config.test_evaluator
    config.test_evaluator = [*(evaluators if isinstance(evaluators, list) else [evaluators])]
    runner = make_runner(config, launcher)
    runner.train()
    runner.test_loop.evaluator.metrics.append(_with_meta(case_table, runner))

    measured: dict[str, Measurement] = {}
    epochs: dict[str, int] = {}
    for name, checkpoint in _checkpoints(runner).items():
        epochs[name] = checkpoint_number(checkpoint)
        if measured and epochs[name] == epochs['last']:  # the last epoch was the best
            measured[name] = measured['last']
            continue
        load_weights(runner, checkpoint)
        measured[name] = Measurement(runner.test(), case_table.table)
    if is_main_process():
        facts = _facts(spec, config, runner, teacher)
        facts.update(seconds=time.time() - begun, checkpoints=epochs)
        write_atomically(work_dir / RESULT, pack_result(measured, read_curves(work_dir), facts))


def read_curves(work_dir: Path) -> pd.DataFrame:
    """What mmengine logged in all attempts of a run, as ``epoch, key, value``.

    Training values are means over the logged steps of an epoch; what was done twice, since the run
    was stopped in between, counts as it was the last time.
    """
    rows = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(errors='replace').splitlines():
            values = _logged(line)
            # Validations have no epoch of their own: their step is one.
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


def _logged(line: str) -> dict[str, Any]:
    """What a line of the log holds; nothing if a killed run or a full disk left it in part."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    numbered = isinstance(values, dict) and all(
        type(values.get(key, 0)) is int for key in ('epoch', 'step')
    )
    return values if numbered else {}


def _refuse_other_settings(work_dir: Path, settings: str) -> None:
    path = work_dir / SETTINGS
    before = path.read_text() if path.is_file() else ''
    if before and (changes := difference(before, settings)):
        raise ValueError(
            f'{work_dir} holds a run with other settings:\n{changes}\nMove it away, or choose '
            'another folder'
        )
    if before != settings and is_main_process():
        work_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, settings.encode())


def _with_meta(metric: CaseTable, runner: Runner) -> CaseTable:
    metric.dataset_meta = getattr(runner.test_dataloader.dataset, 'metainfo', None)
    return metric


def _checkpoints(runner: Runner) -> dict[str, Path]:
    last = newest_checkpoint(Path(runner.work_dir))
    if last is None:
        raise ValueError(
            f'no epoch_*.pth or iter_*.pth in {runner.work_dir}: the config must keep checkpoints '
            '(default_hooks.checkpoint) for a suite to test and to go on from'
        )
    # The best one last: what its test draws replaces what the other's drew.
    return dict(last=last, best=resolve_checkpoint(Path(runner.work_dir)))


def _facts(spec: RunSpec, config: Config, runner: Runner, teacher: Path | None) -> dict[str, Any]:
    inspection = inspect_config(config)
    options = [f'{key}={value}' for key, value in _options(spec, teacher).items()]
    command = ['python', 'tools/train.py', spec.config, '--seed', str(spec.seed)]
    command += ['--work-dir', str(runner.work_dir)] + ['--amp'] * spec.amp
    command += ['--cfg-options', *options] if options else []
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return dict(
        config=spec.config,
        config_text=config.dump(),
        command=shlex.join(command),
        device=f'{device or platform.machine()}, {torch.get_num_threads()} threads',
        versions={'python': platform.python_version()} | {p: version(p) for p in _PACKAGES},
        splits=_splits(runner),
        input_size=list(inspection.input_size),
        members={
            one.name: dict(parameters=one.parameters, flops=2 * one.multiply_adds)
            for one in member_complexities(inspection)
        },
    )


def _splits(runner: Runner) -> dict[str, dict[str, int]]:
    datasets: dict[str, Any] = dict(
        train=runner.train_dataloader.dataset,
        val=runner.val_dataloader.dataset,
        test=runner.test_dataloader.dataset,
    )
    counts = {}
    for part, dataset in datasets.items():
        images = len(dataset)
        counts[part] = dict(images=images)
        if isinstance(dataset, SplitFileMixin):
            of_file = split_counts(read_split(dataset.ann_file))
            if of_file.get('samples', of_file['images']) == images:  # else `indices` chose some
                counts[part] = of_file
    return counts


def _end_with_the_worker() -> None:
    """Ends this process when the worker that holds the other end of its input is gone."""

    def wait() -> None:
        # Not sys.stdin: a thread that waits in there spoils Python's own end.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Executes the run that a JSON file describes."""
    _end_with_the_worker()
    content = json.loads(Path(sys.argv[1]).read_text())
    teacher = content.pop('teacher_dir')
    work_dir = Path(content.pop('work_dir'))
    launcher = 'pytorch' if 'LOCAL_RANK' in os.environ else 'none'
    registered = content.pop('registered', None)
    execute(RunSpec(**content), work_dir, teacher and Path(teacher), launcher, registered)
