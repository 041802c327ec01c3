"""From a config file and a user's options to a runner. What the tools have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn

from mmkdml.apis.options import merge_options
from mmkdml.apis.run_config import RunConfig
from mmkdml.apis.run_identity import start_run, unlock_run
from mmkdml.apis.run_numbers import check_numbers
from mmkdml.apis.trained import load_for_evaluation
from mmkdml.datasets.base import set_image_cache
from mmkdml.engine import (
    RunIdentityHook,
    SafeResumeHook,
    StrictWeightsHook,
    WatchLoadersHook,
    has_fast_bf16,
    keep_freed_memory,
)
from mmkdml.engine.checks import check_class_order, register_checks
from mmkdml.engine.unwrap import unwrap_model
from mmkdml.files import own_file
from mmkdml.models.checkpoints import guard_checkpoints, load_checkpoint_file, resolve_checkpoint
from mmkdml.names import SPLITS

#: Where decoded images are kept unless another folder is named.
IMAGE_CACHE = Path('work_dirs/image_cache')
_PARTS = ('model', 'default_hooks', 'optim_wrapper', 'randomness', 'train_cfg')


def load_config(
    path: str | Path, options: Mapping[str, Any] | None = None, work_dir: str | Path | None = None
) -> Config:
    """Reads a config, applies a user's options and names the folder of the run.

    Args:
        path: The config file.
        options: Values by dotted key, as ``--cfg-options`` gives them.
        work_dir: Folder of the run. Default: ``work_dirs/<folder of the config>/<its name>``.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read, a part that must have settings has none, or an option is
            invalid; see :func:`mmkdml.apis.options.merge_options`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'There is no config file {path}')
    try:
        config = Config.fromfile(path)
    except Exception as error:  # configs are code
        raise ValueError(
            f'{path} cannot be read as a config: {type(error).__name__}: {error}'
        ) from error
    merge_options(config, options or {})
    for part in _PARTS:
        if not isinstance(config.get(part), Mapping | None):
            raise ValueError(f'{path}: {part} must be a dict of settings, got {config[part]!r}')
    if work_dir is not None:
        config.work_dir = str(work_dir)
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / path.resolve().parent.name / path.stem)
    return config


def use_amp(config: Config) -> None:
    """Sets mixed precision: bfloat16 on a CPU and on GPUs that have it, float16 elsewhere.

    Raises:
        ValueError: If the config has an optimiser wrapper of its own kind.
    """
    wrapper = config.optim_wrapper
    if not _has_plain_wrapper(config):
        raise ValueError(
            f'--amp replaces OptimWrapper, but the config has {wrapper["type"]}; set its precision '
            'in the config'
        )
    # By name: a class that is put in later would be dumped in a form that cannot be read.
    if torch.cuda.is_available():
        dtype = 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
        wrapper.update(type='AmpOptimWrapper', dtype=dtype)
    else:
        wrapper.type = 'mmkdml.CPUAmpOptimWrapper'


def use_fast(config: Config) -> None:
    """Sets what makes training steps faster on this device: see ``docs/training_speed.md``.

    That is :func:`use_amp` on a GPU and where :func:`mmkdml.engine.has_fast_bf16`, unless the
    config has an optimiser wrapper of its own kind; a :class:`mmkdml.engine.ChannelsLastHook`; and
    the fused form of Adam, AdamW and SGD.
    """
    if (torch.cuda.is_available() or has_fast_bf16()) and _has_plain_wrapper(config):
        use_amp(config)
    optimizer = config.optim_wrapper.get('optimizer') or {}
    kind = optimizer.get('type')
    if getattr(kind, '__name__', kind) in ('Adam', 'AdamW', 'SGD'):
        optimizer.setdefault('fused', True)
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type='mmkdml.ChannelsLastHook')]


def _has_plain_wrapper(config: Config) -> bool:
    return config.optim_wrapper.get('type', OptimWrapper) in (OptimWrapper, 'OptimWrapper')


def use_deterministic(config: Config) -> None:
    """Has equal runs give equal numbers on a GPU, too; what cannot do so stops the run.

    Call it before CUDA is used: cuBLAS reads its variable once.
    """
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    config.randomness = dict(config.get('randomness') or {}, deterministic=True)


def use_image_cache(config: Config, folder: str | Path) -> None:
    """Has the data sets of training, validation and test keep decoded images in a folder.

    Args:
        config: Whose data sets are of mmkdml.
        folder: Made if missing; see :func:`mmkdml.datasets.cached_pipeline`.

    Raises:
        TypeError: If a data set is of another kind.
    """
    for part in SPLITS:
        loader = config.get(f'{part}_dataloader')
        if loader is not None:
            set_image_cache(loader.dataset, folder)


def make_runner(
    config: Config,
    launcher: str = 'none',
    train: bool = True,
    overwrite: bool = False,
    accept_changes: bool = False,
) -> Runner:
    """Build the runner of a config, in which checkpoints are loaded as weights only.

    To train, its folder is locked until ``runner.train()`` returns, and belongs to one run: see
    :func:`mmkdml.apis.run_identity.start_run`. With ``resume`` and no ``load_from`` it resumes from
    the run's :func:`~mmkdml.apis.newest_checkpoint`.

    Args:
        config: As :func:`load_config` returns it.
        launcher: ``'none'``, or who started the processes: ``'pytorch'`` (torchrun), ``'slurm'``,
            ``'mpi'``. Without a GPU, processes started by torchrun talk over gloo.
        train: Whether the runner is to train. Otherwise the folder is neither locked nor checked,
            and the config of the run in it is not overwritten.
        overwrite: Remove the checkpoints of an older run in the folder when training starts.
        accept_changes: Resume although settings or data differ; the config's hold.

    Raises:
        TypeError: If a setting is none that its class has.
        ValueError: If the file to load or to resume from is no checkpoint of weights, or the config
            lacks a setting or names a class that is not known; as of
            :func:`mmkdml.apis.run_identity.start_run` and
            :func:`mmkdml.apis.run_numbers.check_numbers`.
    """
    check_numbers(config)
    guard_checkpoints()
    if not torch.cuda.is_available():
        keep_freed_memory()
    config.launcher = launcher
    if launcher != 'none':
        _share_among_processes(config)
    start = None
    if train and config.get('work_dir'):
        start = start_run(config, overwrite, accept_changes)
        if config.get('resume'):
            config.resume = start.checkpoint is not None
            config.load_from = start.checkpoint and str(start.checkpoint)
    try:
        weights = None if config.get('resume') else config.get('load_from')
        if weights and Path(weights).is_file():
            load_checkpoint_file(weights)  # before the networks are built
        runner = _Runner.from_cfg(RunConfig(config))
    except BaseException as error:
        if start is not None:
            unlock_run(config)
        if not isinstance(error, KeyError | TypeError):
            raise
        # mmengine's, of a setting that is missing or unknown
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f'no run can be made of the config: {error}') from error
    runner.register_hook(SafeResumeHook())
    runner.register_hook(StrictWeightsHook())
    runner.register_hook(WatchLoadersHook())
    register_checks(runner)
    if start is not None:
        hook = RunIdentityHook(start.identity, start.changes, start.outdated, start.notes)
        runner.register_hook(hook)
    return runner


class _Runner(Runner):
    """Runner that leaves its folder unchanged until it trains."""

    def dump_config(self) -> None:
        """Do nothing: ``RunIdentityHook`` writes the config, so that a test does not replace it."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger, in a folder whose files are not links to elsewhere."""
        log = own_file(self.work_dir, self.timestamp, f'{self.timestamp}.log')
        for path in log.parent.rglob('*'):
            own_file(self.work_dir, path.relative_to(self.work_dir))
        return super().build_logger(*args, **kwargs)

    def train(self) -> nn.Module:
        """Train, and release the folder however the training ends."""
        try:
            return super().train()
        finally:
            unlock_run(self.cfg)


def _share_among_processes(config: Config) -> None:
    """Sets how processes work together, as far as the config does not."""
    config.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',  # by name, see use_amp
            broadcast_buffers=True,  # those that are saved, or what is resumed would not be exact
            find_unused_parameters=config.get('find_unused_parameters', False),
        ),
    )
    env = config.get('env_cfg', {})
    if config.launcher == 'pytorch' and not torch.cuda.is_available():
        seconds = env.get('dist_cfg', {}).get('timeout')
        torch.distributed.init_process_group('gloo', timeout=seconds and timedelta(seconds=seconds))
        config.model_wrapper_cfg['device_ids'] = None
    elif not is_distributed():  # the processes agree on how a run starts
        set_multi_processing(**env.get('mp_cfg', {}), distributed=True)
        init_dist(config.launcher, **env.get('dist_cfg', {}))


def load_weights(runner: Runner, checkpoint: str | Path) -> None:
    """Load a checkpoint into the runner's model to evaluate it; see :func:`load_for_evaluation`.

    Hooks are not called: those that change a checkpoint, such as ``EMAHook``, do so for training.

    Args:
        runner: The runner.
        checkpoint: File, or folder of a run for its best checkpoint.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is invalid, does not fit the model, or holds NaN or infinite weights.
    """
    model = unwrap_model(runner.model)
    path = resolve_checkpoint(checkpoint)
    content = load_checkpoint_file(path)
    load_for_evaluation(model, path, content)
    if runner.test_loop is not None:
        check_class_order(runner.test_dataloader.dataset, content, str(path))
    runner._has_loaded = True  # else load_from and resume in the config would replace it
    runner.logger.info(f'Loaded the weights of {path}')
