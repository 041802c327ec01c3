"""Loading configs, applying options and building runners."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from mmkdml.apis.fused_evaluation import FusedEvaluationHook
from mmkdml.apis.run.comparison import check_own_config
from mmkdml.apis.run.config import RunConfig
from mmkdml.apis.run.identity import start_run, unlock_run
from mmkdml.apis.run.numbers import check_numbers
from mmkdml.apis.run.output import HeaderHook, earlier_validations
from mmkdml.apis.run.results import ResultsHook
from mmkdml.apis.runner import LOG, PROGRESS, RUNNERS
from mmkdml.apis.summary.record import RecordHook
from mmkdml.apis.trained import load_for_evaluation
from mmkdml.checkpoint_io import guard_checkpoints, recorded_meta
from mmkdml.datasets.base import set_image_cache
from mmkdml.engine import (
    ProgressHook,
    RunIdentityHook,
    SafeResumeHook,
    StrictWeightsHook,
    TransferWeightHook,
    WatchLoadersHook,
    has_fast_bf16,
    keep_freed_memory,
)
from mmkdml.engine.checks import check_class_order, register_checks
from mmkdml.engine.distributed import restarted_store, set_slurm_environment
from mmkdml.engine.log_backends import LOGS
from mmkdml.engine.unwrap import unwrap_model
from mmkdml.functional.checks import check_choice
from mmkdml.models.checkpoints import load_checkpoint_file, resolve_checkpoint
from mmkdml.names import SPLITS
from mmkdml.optional import check_extra

#: Default folder of the cache of decoded images.
IMAGE_CACHE = Path('work_dirs/image_cache')

_FRAMEWORKS = ('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg')


def use_amp(config: Config) -> None:
    """Enable mixed precision: bfloat16 on CPUs and on GPUs that support it, otherwise float16.

    Raises:
        ValueError: If the config has another optimizer wrapper than ``OptimWrapper``.
    """
    wrapper = config.optim_wrapper
    if not _has_plain_wrapper(config):
        raise ValueError(
            f'--amp requires OptimWrapper, but the config has {wrapper["type"]}. Set the precision '
            'in the config'
        )
    # By name, because a class that is set here would be dumped in an unreadable form.
    if torch.cuda.is_available():
        dtype = 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
        wrapper.update(type='AmpOptimWrapper', dtype=dtype)
        return
    if not has_fast_bf16():
        print_log(
            '--amp only saves memory: bfloat16 is not faster than float32 on this CPU',
            logger='current',
            level=logging.WARNING,
        )
    wrapper.type = 'mmkdml.CPUAmpOptimWrapper'


def use_fast(config: Config) -> None:
    """Enable the speed-ups that pay on this device; see ``docs/training_speed.md``.

    These are :func:`use_amp` on GPUs and on CPUs with :func:`mmkdml.engine.has_fast_bf16`, unless
    the config has another optimizer wrapper; :class:`mmkdml.engine.ChannelsLastHook`; and the fused
    versions of Adam, AdamW and SGD.
    """
    if (torch.cuda.is_available() or has_fast_bf16()) and _has_plain_wrapper(config):
        use_amp(config)
    optimizer = config.optim_wrapper.get('optimizer') or {}
    if _short_name(optimizer.get('type')) in ('Adam', 'AdamW', 'SGD'):
        optimizer.setdefault('fused', True)
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type='mmkdml.ChannelsLastHook')]


def _has_plain_wrapper(config: Config) -> bool:
    return _short_name(config.optim_wrapper.get('type', OptimWrapper)) == 'OptimWrapper'


def _short_name(kind: Any) -> str:
    """Name a class, or a string with or without its module, as in the config of a run."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def use_deterministic(config: Config) -> None:
    """Make training bitwise reproducible on a GPU; nondeterministic operators raise an error.

    Call it before CUDA is used, because cuBLAS reads its environment variable once.
    """
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    config.randomness = dict(config.get('randomness') or {}, deterministic=True)


def use_image_cache(config: Config, folder: str | Path) -> None:
    """Cache the decoded images of the training, validation and test sets in a folder.

    Args:
        config: Config whose data sets are from mmkdml.
        folder: The folder, created if missing; see :func:`mmkdml.datasets.cached_pipeline`.

    Raises:
        TypeError: If a data set is not from mmkdml.
    """
    for part in SPLITS:
        loader = config.get(f'{part}_dataloader')
        if loader is not None:
            set_image_cache(loader.dataset, folder)


def use_logs(config: Config, names: Sequence[str]) -> None:
    """Log a training to further services; see :mod:`mmkdml.engine.log_backends`.

    Args:
        config: Config of the training.
        names: Some of ``'tensorboard'``, ``'wandb'`` and ``'mlflow'``.

    Raises:
        ValueError: If a name is unknown, or a package is not installed.
    """
    unknown = sorted({*names} - {*LOGS})
    if unknown:
        raise ValueError(f'--log: expected some of {", ".join(LOGS)}, got {", ".join(unknown)}')
    for name in names:
        check_extra(name, extra='logging', purpose=f'--log {name}')
    config.setdefault('visualizer', dict(type='Visualizer'))
    visualizer = config.visualizer
    backends = visualizer.get('vis_backends') or [dict(type='mmkdml.engine.StrictJsonVisBackend')]
    # By name, as in the dumped config of a run.
    new = [dict(type=f'mmkdml.engine.log_backends.{LOGS[name]}') for name in dict.fromkeys(names)]
    visualizer.vis_backends = [*backends, *(one for one in new if one not in backends)]


def make_runner(
    config: Config,
    launcher: str = 'none',
    train: bool = True,
    overwrite: bool = False,
    accept_changes: bool = False,
    output: str = LOG,
    validations: bool = True,
    start_options: Mapping[str, Any] | None = None,
) -> Runner:
    """Build the runner of a config, which loads checkpoints without executing code.

    For training, its folder is locked until ``runner.train()`` returns, and belongs to one run: see
    :func:`mmkdml.apis.run.identity.start_run`. With ``resume`` and no ``load_from`` it resumes from
    the run's :func:`~mmkdml.apis.newest_checkpoint`.

    Args:
        config: As :func:`load_config` returns it.
        launcher: Launcher of the processes: ``'none'``, ``'pytorch'`` (torchrun), ``'slurm'`` or
            ``'mpi'``. Without a GPU, processes of torchrun and Slurm communicate over gloo.
        train: Build a runner for training. If False, the folder is neither locked nor checked, and
            the config in it is not overwritten.
        overwrite: Remove the checkpoints of an older run in the folder when training starts.
        accept_changes: Resume with the settings and data of the config although they differ.
        output: What to print: ``'log'``, mmengine's whole log, which is always in its file;
            ``'progress'``, a header, warnings and progress (:class:`~mmkdml.engine.ProgressHook`);
            or ``'warnings'`` only.
        validations: With ``'progress'``, print a line per epoch and a table per validation.
        start_options: Options to record, see :class:`mmkdml.apis.run.options.StartOptions`.

    Raises:
        TypeError: If a class does not accept a setting.
        ValueError: If a checkpoint to load or resume is invalid, a setting is missing, or a class
            is unknown; see also :func:`mmkdml.apis.run.identity.start_run` and
            :func:`mmkdml.apis.run.numbers.check_numbers`.
    """
    check_choice('output', output, tuple(RUNNERS))
    check_numbers(config)
    guard_checkpoints()
    if not torch.cuda.is_available():
        keep_freed_memory()
    config.launcher = launcher
    if launcher != 'none':
        _set_up_distributed(config)
    start = None
    if train and config.get('work_dir'):
        start = start_run(config, overwrite, accept_changes)
        if start_options is not None:
            start.identity['start'] = dict(start_options)
        if config.get('resume'):
            config.resume = start.checkpoint is not None
            config.load_from = start.checkpoint and str(start.checkpoint)
    try:
        weights = None if config.get('resume') else config.get('load_from')
        if weights and Path(weights).is_file():
            load_checkpoint_file(weights)  # before the networks are built
        runner = RUNNERS[output].from_cfg(RunConfig(config))
    except BaseException as error:
        if start is not None:
            unlock_run(config)
        if not isinstance(error, KeyError | TypeError) and not _is_refused_value(error):
            raise
        # from mmengine, for a missing, unknown or invalid setting
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f'Invalid config: {error}') from error
    runner.register_hook(SafeResumeHook())
    runner.register_hook(StrictWeightsHook())
    runner.register_hook(WatchLoadersHook())
    if not any(isinstance(hook, FusedEvaluationHook) for hook in runner.hooks):
        runner.register_hook(FusedEvaluationHook())
    if not any(isinstance(hook, TransferWeightHook) for hook in runner.hooks):
        runner.register_hook(TransferWeightHook())
    runner.register_hook(ResultsHook())
    if output == PROGRESS:
        runner.register_hook(HeaderHook())
        runner.register_hook(ProgressHook(validations, history=earlier_validations))
    runner.register_hook(RecordHook())
    register_checks(runner)
    if start is not None:
        hook = RunIdentityHook(start.identity, start.changes, start.outdated, start.notes)
        runner.register_hook(hook)
    return runner


def _set_up_distributed(config: Config) -> None:
    """Set defaults for distributed training, and initialize the process group where needed."""
    config.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',  # by name, see use_amp
            broadcast_buffers=True,  # buffers are saved, and must be equal to resume exactly
            find_unused_parameters=config.get('find_unused_parameters', False),
        ),
    )
    env = config.get('env_cfg', {})
    if config.launcher == 'slurm':
        set_slurm_environment()
    if config.launcher in ('pytorch', 'slurm') and not torch.cuda.is_available():
        seconds = env.get('dist_cfg', {}).get('timeout')
        timeout = seconds and timedelta(seconds=seconds)
        torch.distributed.init_process_group('gloo', timeout=timeout, **restarted_store(timeout))
        config.model_wrapper_cfg['device_ids'] = None
    elif not is_distributed():  # needed to agree on how the run starts
        set_multi_processing(**env.get('mp_cfg', {}), distributed=True)
        store = restarted_store() if config.launcher == 'pytorch' else {}
        init_dist(config.launcher, **env.get('dist_cfg', {}), **store)


def _is_refused_value(error: BaseException) -> bool:
    """Return whether a framework raised a ``ValueError``, e.g. for an invalid value of a hook."""
    frame, _ = list(traceback.walk_tb(error.__traceback__))[-1]
    module = frame.f_globals.get('__name__', '')
    return isinstance(error, ValueError) and module.partition('.')[0] in _FRAMEWORKS


def load_weights(runner: Runner, checkpoint: str | Path, use_config: bool = False) -> None:
    """Load a checkpoint into the runner's model to evaluate it; see :func:`load_for_evaluation`.

    Hooks are not called: those that change a checkpoint, such as ``EMAHook``, do so for training.

    Args:
        runner: The runner.
        checkpoint: Checkpoint file, or folder of a run for its best one.
        use_config: Allow a runner with other settings than the run of the folder.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If it is invalid, does not fit the model, or holds NaN or infinite weights; see
            also :func:`mmkdml.apis.run.comparison.check_own_config`.
    """
    model = unwrap_model(runner.model)
    path = resolve_checkpoint(checkpoint)
    if Path(checkpoint).is_dir():
        check_own_config(runner.cfg, checkpoint, use_config)
    content = load_checkpoint_file(path)
    load_for_evaluation(model, path, content)
    if runner.test_loop is not None:
        check_class_order(runner.test_dataloader.dataset, content, str(path))
    runner.tested_checkpoint = path, recorded_meta(content)  # for ResultsHook
    runner._has_loaded = True  # else load_from and resume in the config would replace it
    runner.logger.info(f'Loaded the weights of {path}')
