"""Options with which a run was started, which are used again when it is resumed."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdml.apis.folds import set_fold
from mmkdml.apis.options import merge_options
from mmkdml.apis.run.checkpoints import RunCheckpoints, farthest
from mmkdml.apis.run.comparison import recorded_identity
from mmkdml.apis.run.config import load_config
from mmkdml.apis.run.identity import checkpoint_folders, identity_settings
from mmkdml.apis.run.settings import changed_settings, only_extends
from mmkdml.apis.runs import use_amp, use_deterministic, use_fast, use_image_cache, use_logs
from mmkdml.checkpoint_io import recorded_meta
from mmkdml.commands import own_command, tool_command
from mmkdml.engine.resume.run_identity import RUN
from mmkdml.files import is_regular
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.names import FINISHED, fold_folder

#: Key of the options in ``identity.json``.
START = 'start'
# They describe a single call.
_NOT_REPEATED = ('work_dir', 'resume', 'load_from')


@dataclass(frozen=True)
class StartOptions:
    """Options of ``tools/train.py`` that change the config.

    Attributes:
        options: Values by dotted key (``--cfg-options``).
        seed: Random seed.
        deterministic: See :func:`mmkdml.apis.use_deterministic`.
        amp: See :func:`mmkdml.apis.use_amp`.
        fast: See :func:`mmkdml.apis.use_fast`.
        cache_images: Folder of the image cache.
        log: See :func:`mmkdml.apis.runs.use_logs`.
        fold: See :func:`mmkdml.apis.set_fold`.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    deterministic: bool = False
    amp: bool = False
    fast: bool = False
    cache_images: str | None = None
    log: Sequence[str] | None = None
    fold: int | None = None

    def updated(self, later: StartOptions) -> StartOptions:
        """Return these options, replaced by those of a later start."""
        options = {
            key: value
            for key, value in self.options.items()
            if not any(key == new or key.startswith(f'{new}.') for new in later.options)
        }
        flags = {
            name: value if _is_set(value := getattr(later, name)) else old
            for name, old in asdict(self).items()
            if name != 'options'
        }
        return StartOptions({**options, **later.options}, **flags)

    def without(self, applied: StartOptions) -> StartOptions:
        """Return these options without the flags that a config already contains."""
        flags = {
            name: None if (value := getattr(self, name)) == getattr(applied, name) else value
            for name in ('seed', 'deterministic', 'amp', 'fast', 'cache_images', 'log', 'fold')
        }
        return StartOptions(self.options, **flags)  # type: ignore[arg-type]

    def apply(self, config: Config) -> None:
        """Apply the options to a config, in place."""
        merge_options(config, self.options)
        if self.fold is not None:
            set_fold(config, self.fold)
        if self.seed is not None:
            config.randomness = dict(config.get('randomness') or {}, seed=self.seed)
        if self.deterministic:
            use_deterministic(config)
        if self.amp:
            use_amp(config)
        if self.fast:
            use_fast(config)
        if self.cache_images:
            use_image_cache(config, self.cache_images)
        if self.log:
            use_logs(config, self.log)

    def record(self) -> dict[str, Any]:
        """Return JSON values for ``identity.json``, with the command line of this process."""
        options = {key: repr(value) for key, value in self.options.items()}
        command = shlex.join(own_command())
        return {**asdict(self), 'options': options, 'command': command}

    def __str__(self) -> str:
        """Format the options as on the command line."""
        words = []
        for one in fields(self):
            value, option = getattr(self, one.name), f'--{one.name.replace("_", "-")}'
            if one.name != 'options' and _is_set(value):
                values = value if isinstance(value, list | tuple) else [value]
                words += [option] if value is True else [option, *map(str, values)]
        if self.options:
            words += ['--cfg-options', *(f'{key}={value}' for key, value in self.options.items())]
        return shlex.join(words)


def _is_set(value: Any) -> bool:
    return value is not None and value is not False  # a seed may be 0


def training_config(
    path: str | Path,
    given: StartOptions,
    work_dir: str | Path | None = None,
    resume: str | None = None,
) -> tuple[Config, StartOptions, StartOptions]:
    """Load the config of a training, with the options of the first start if it is resumed.

    Args:
        path: Config file, or folder of a run.
        given: Options of this start, which take precedence.
        work_dir: Folder of the run, see :func:`load_config`.
        resume: ``'auto'`` for the newest checkpoint, or a checkpoint file.

    Returns:
        The config, all options that it contains, and those of the first start.
    """
    config = load_config(path, given.options, work_dir)
    if given.fold is not None and work_dir is None and not Path(path).is_dir():
        config.work_dir = str(Path(config.work_dir) / fold_folder(given.fold))
    before = StartOptions()
    if resume is not None:
        identity = _identity(config, resume)
        before = _recorded(identity.get(START))
        if identity.get('config') != Path(config.filename).name:
            before = StartOptions()  # another config
    if Path(path).is_dir() and Path(path).resolve() == Path(config.work_dir).resolve():
        given.without(before).apply(config)  # the config of the run contains earlier options
    else:
        folder = config.work_dir
        config = load_config(path, work_dir=folder)
        before.updated(given).apply(config)
        config.work_dir = folder
    if resume is not None:
        config.resume = True
        config.load_from = None if resume == 'auto' else resume
    return config, before.updated(given), before


def finished_note(config: Config) -> str | None:
    """Describe a finished run that ``--resume`` would not continue.

    Args:
        config: Config of the training, see :func:`training_config`.

    Returns:
        What was trained and how to extend it; None if the run is not finished, or if its settings
        have changed.
    """
    identity = recorded_identity(config.work_dir)
    finished = identity.get(FINISHED)
    if not isinstance(finished, Mapping) or config.get('load_from'):
        return None
    metas, _ = RunCheckpoints(checkpoint_folders(config)).read()
    last = farthest(metas)
    settings = identity.get('settings')
    if last is None or not isinstance(settings, Mapping) or metas[last].get('iter') is None:
        return None
    if changed_settings(settings, identity_settings(config)):
        return None
    if int(metas[last]['iter']) < int(finished.get('iter', 0)):
        return None
    unit = 'iters' if config.train_cfg.get('max_iters') else 'epochs'
    key, done = f'train_cfg.max_{unit}', finished.get(unit.removesuffix('s'))
    end = config.train_cfg.get(f'max_{unit}')
    early = f' of {end} (stopped early)' if done != end else ''
    free = only_extends({key: (end, end)}, config)
    schedule = '' if free else ', with --accept-changes because its schedule depends on it'
    return (
        f'{config.work_dir} is finished after {done}{early} {unit.replace("iters", "iterations")}: '
        f'nothing to resume. Test it: {tool_command("test")} {config.work_dir}. Train longer: '
        f'--resume --cfg-options {key}=<more than {end}>{schedule}'
    )


def _identity(config: Config, resume: str) -> Mapping[str, Any]:
    """Return the identity in the folder of a run, otherwise that in its checkpoint."""
    identity = recorded_identity(config.work_dir)
    if identity:
        return identity
    if resume != 'auto':
        meta = recorded_meta(load_checkpoint_file(resume)) if is_regular(Path(resume)) else {}
    else:
        metas, _ = RunCheckpoints(checkpoint_folders(config)).read()
        last = farthest(metas)
        meta = {} if last is None else metas[last]
    run = meta.get(RUN)
    return run if isinstance(run, Mapping) else {}


def _recorded(record: Any) -> StartOptions:
    if not isinstance(record, Mapping):
        return StartOptions()
    options = {}
    for key, text in dict(record.get('options') or {}).items():
        if key not in _NOT_REPEATED:
            with suppress(ValueError, SyntaxError, TypeError):  # such as inf
                options[key] = ast.literal_eval(text)
    flags = {one.name: record[one.name] for one in fields(StartOptions) if one.name in record}
    return StartOptions(**{**flags, 'options': options})
