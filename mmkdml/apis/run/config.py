"""Loading the config of a run or of a file."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config

from mmkdml.apis.options import merge_options
from mmkdml.apis.run.comparison import check_own_config, own_config_file
from mmkdml.apis.run.volumes import complete_volumes
from mmkdml.apis.trained import run_files
from mmkdml.optional import check_extra
from mmkdml.packages import packaged_file

_PARTS = ('model', 'default_hooks', 'optim_wrapper', 'randomness', 'train_cfg')
# Imports, and names with a scope.
_USES_MMDET = re.compile(r"""^from mmdet\b|['"]mmdet(['"]|\.|::)""", re.MULTILINE)


class RunConfig(Config):
    """Config that keeps its formatted text until it changes.

    mmengine requests the text several times when a run starts and again for each checkpoint, and
    formatting takes about 0.2 s.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.__dict__.update(copy.deepcopy(vars(config)))

    @property
    def pretty_text(self) -> str:
        """The config as formatted Python code."""
        content = repr(self)
        if self.__dict__.get('formatted', ('', ''))[0] != content:
            self.__dict__['formatted'] = content, super().pretty_text
        return self.__dict__['formatted'][1]


def load_config(
    path: str | Path, options: Mapping[str, Any] | None = None, work_dir: str | Path | None = None
) -> Config:
    """Read a config, apply options and set the folder of the run.

    Args:
        path: The config file, also in a package (``mmkdml::kdml/r50_r18x2_v3_lgg.py``), or the
            folder of a run that contains its config.
        options: Values by dotted key, as from ``--cfg-options``.
        work_dir: Folder of the run. Default: ``path`` if it is one, otherwise
            ``work_dirs/<folder of the config>/<its name>``.

    Raises:
        FileNotFoundError: If the config does not exist.
        ValueError: If it is unreadable, needs mmdet, which is not installed, a section such as
            ``model`` is not a dict, or an option is invalid; see
            :func:`mmkdml.apis.options.merge_options`.
    """
    path = packaged_file(path)
    if path.is_dir():
        path, work_dir = own_config_file(path), path if work_dir is None else work_dir
    if not path.is_file():
        raise FileNotFoundError(f'There is no config file {path}')
    try:
        config = Config.fromfile(path)
    except Exception as error:  # configs are code
        raise ValueError(f'Invalid config {path}: {type(error).__name__}: {error}') from error
    modules = [key for key, value in config.items() if isinstance(value, ModuleType)]
    if modules:
        raise ValueError(
            f'Invalid config {path}: expected values that can be saved, got the module '
            f'{modules[0]}. Delete it at the end of the config: del {modules[0]}'
        )
    if _USES_MMDET.search(config.text):
        check_extra('mmdet', extra='detection', purpose=f'the detectors of {path}')
    merge_options(config, options or {})
    complete_volumes(config)
    for part in _PARTS:
        if not isinstance(config.get(part), Mapping | None):
            raise ValueError(f'{path}: {part}: expected a dict, got {config[part]!r}')
    if work_dir is not None:
        config.work_dir = str(work_dir)
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / path.resolve().parent.name / path.stem)
    return config


def load_run(
    run: str | Path,
    checkpoint: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    use_config: bool = False,
    only_prediction: bool = False,
    work_dir: str | Path | None = None,
) -> tuple[Config, Path]:
    """Load the config of a run and find its checkpoint; the first step of every tool.

    Args:
        run: Folder of a run or of a published model, whose own config is used; or a config file.
        checkpoint: Checkpoint file, or folder of a run for its best one. Default: the only
            ``*.pth`` of the folder, or its best one.
        options: Values by dotted key, as from ``--cfg-options``; applied to the config.
        use_config: Use a config file with the folder of a run that has other settings.
        only_prediction: Compare only the model and the preprocessing of images.
        work_dir: Folder for outputs. Default: the folder of the run if ``run`` is one, or if the
            config has its settings; otherwise see :func:`load_config`.

    Raises:
        FileNotFoundError: If the config or checkpoint does not exist.
        ValueError: If the config is invalid, or differs from that of the run; see
            :func:`mmkdml.apis.run.comparison.check_own_config`.
    """
    file, path = run_files(run, checkpoint)
    folder = Path(run if Path(run).is_dir() or checkpoint is None else checkpoint)
    if folder.is_dir() and not use_config and work_dir is None:
        work_dir = folder
    config = load_config(file, options, work_dir)
    if Path(run).is_dir():
        if use_config:
            raise ValueError(f'--use-config requires a config before the run {run}')
    elif folder.is_dir():
        check_own_config(config, folder, use_config, only_prediction)
    else:  # a file is an explicit choice
        check_own_config(config, path.parent, True, only_prediction)
    return config, path
