"""Settings and data that determine the result of a run, and differences between runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkdml.files import file_sha256

if TYPE_CHECKING:
    from mmengine.config import Config

#: Parts of a config that determine the trained weights and the choice of the best checkpoint.
TRAINING_PARTS = (
    'model', 'data_preprocessor', 'train_dataloader', 'val_dataloader', 'val_evaluator',
    'train_cfg', 'val_cfg', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'custom_hooks',
    'auto_scale_lr', 'sync_bn', 'randomness',
)  # fmt: skip
DATA = 'data'
_DATA_KEYS = ('ann_file', 'data_root', 'data_prefix')
# Settings that change how fast samples are loaded, not the samples.
_LOADING = {
    'num_workers', 'persistent_workers', 'pin_memory', 'pin_memory_device', 'prefetch_factor',
    'timeout', 'multiprocessing_context', 'image_cache', 'lazy_init', 'serialize_data',
}  # fmt: skip
_WATCHING_HOOKS = (
    'IterTimerHook', 'LoggerHook', 'LossBalanceHook', 'MemberTableHook', 'PanelHook', 'ProfileHook',
    'ReliabilityHook', 'TransferWeightHook', 'VisualizationHook',
)  # fmt: skip
_SAVING = {
    'interval', 'by_epoch', 'max_keep_ckpts', 'out_dir', 'save_last', 'save_begin',
    'filename_tmpl', 'backend_args', 'save_optimizer', 'save_param_scheduler',
}  # fmt: skip
_LENGTH = {'train_cfg.max_epochs', 'train_cfg.max_iters'}
_FREE_SCHEDULES = ('MultiStep', 'Step', 'Exponential', 'Constant', 'CosineRestart')
_MOST_LINES = 40


def deciding_settings(config: Config, parts: tuple[str, ...] = TRAINING_PARTS) -> dict[str, Any]:
    """Return the settings that determine the result of a run, and hashes of its data (``'data'``).

    Settings that affect only speed, logs or the choice of saved files are left out: workers of data
    loaders, caches, hooks that only watch, intervals of checkpoints.

    Args:
        config: The config, as :func:`mmkdml.apis.load_config` returns it.
        parts: Keys of the config to include.

    Returns:
        JSON values. Parts that the config lacks are None.
    """
    plain = config.to_dict()
    loaders = [part for part in parts if part.endswith('_dataloader')]
    data = {
        f'{loader.removesuffix("_dataloader")}{place}': digest
        for loader in loaders
        for place, digest in _data_digests(plain.get(loader))
    }
    settings = {part: plain.get(part) for part in parts} | {DATA: data}
    return _without_incidental(json.loads(json.dumps(settings, default=_name)))


def changed_settings(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Compare two results of :func:`deciding_settings`, also of earlier versions.

    Parts that are missing in one of them are not compared, nor are data without files.

    Returns:
        Old and new value by dotted key; :data:`NOT_SET` where there is none.
    """
    common = before.keys() & after.keys()
    old, new = (
        dict(_flat(_without_incidental({part: settings[part] for part in sorted(common)})))
        for settings in (before, after)
    )
    pairs = {
        key: (old.get(key, NOT_SET), new.get(key, NOT_SET))
        for key in sorted(old.keys() | new.keys())
    }
    return {
        key: values
        for key, values in pairs.items()
        if values[0] != values[1] and not (key.startswith(f'{DATA}.') and None in values)
    }


def settings_difference(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Format changed settings, one ``key: old -> new`` per line."""
    lines = [f'  {key}: {old!r} -> {new!r}' for key, (old, new) in changes.items()]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f'  ... and {len(lines) - _MOST_LINES} more']
    return '\n'.join(lines)


def other_settings_error(
    subject: str, changes: str | Mapping[str, tuple[Any, Any]], fix: str
) -> ValueError:
    """Build the error for a folder, run or study that was created with other settings.

    Args:
        subject: Beginning of the message, such as "DIR has a run".
        changes: Changed settings, or their :func:`settings_difference`.
        fix: End of the message: how to fix the cause.
    """
    lines = changes if isinstance(changes, str) else settings_difference(changes)
    return ValueError(f'{subject} with other settings (old -> new):\n{lines}\n{fix}')


def only_extends(changes: Mapping[str, tuple[Any, Any]], config: Config) -> bool:
    """Return whether only the length changed, and no rate or weight so far depends on it."""
    return changes.keys() <= _LENGTH and all(_is_free(one) for _, one in all_schedules(config))


def all_schedules(config: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield dotted key and settings of the schedules of optimizers and of transfer weights."""
    yield from _schedules(config.get('param_scheduler') or [], 'param_scheduler')
    model = config.get('model')
    if not isinstance(model, Mapping):
        return
    yield from _schedules(model.get('weight_schedules') or [], 'model.weight_schedules')
    for index, transfer in enumerate(model.get('transfers') or ()):
        place = f'model.transfers.{index}'
        if not isinstance(transfer, Mapping):  # a Transfer
            transfer = dict(schedule=getattr(transfer, 'schedule', None))
        elif isinstance(transfer.get('weight'), Mapping):
            transfer, place = transfer['weight'], f'{place}.weight'
        yield from _schedules(transfer.get('schedule') or [], f'{place}.schedule')


def _schedules(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the schedules of a config, a list, or a dict by optimizer or student."""
    if isinstance(value, Mapping) and 'type' in value:
        yield place, value
    else:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, one in items:
            yield from _schedules(one, f'{place}.{key}')


def _is_free(schedule: Mapping[str, Any]) -> bool:
    """Return whether a schedule's values so far do not depend on the end of the training."""
    kind = schedule['type']
    name = getattr(kind, '__name__', str(kind)).rpartition('.')[2]
    if name.startswith('ReduceOnPlateau'):  # it starts again, see RunIdentityHook
        return False
    fixed = {'CosineAnnealing': 'T_max', 'OneCycle': 'total_steps'}
    return (
        'end' in schedule
        or name.startswith(_FREE_SCHEDULES)
        or any(name.startswith(kind) and key in schedule for kind, key in fixed.items())
    )


class _NotSet:
    def __repr__(self) -> str:
        return '(not set)'


NOT_SET = _NotSet()


def _without_incidental(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Remove settings that do not affect the result."""
    kept = dict(settings)
    for part in kept:
        if part.endswith('_dataloader'):
            kept[part] = _without(kept[part], _LOADING)
    hooks = kept.get('default_hooks')
    if isinstance(hooks, Mapping):
        kept['default_hooks'] = {
            name: _without(hook, _SAVING) if name == 'checkpoint' else hook
            for name, hook in hooks.items()
            if _decides(hook)
        }
    if isinstance(hooks := kept.get('custom_hooks'), list):
        kept['custom_hooks'] = [hook for hook in hooks if _decides(hook)]
    return kept


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(one, keys) for key, one in value.items() if key not in keys}
    return [_without(one, keys) for one in value] if isinstance(value, list) else value


def _decides(hook: Any) -> bool:
    kind = hook.get('type') if isinstance(hook, Mapping) else None
    return not str(kind).endswith(_WATCHING_HOOKS)


def _flat(value: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    if not items:
        yield place, value
    for key, one in items:
        yield from _flat(one, f'{place}.{key}' if place else str(key))


def _name(value: Any) -> str:
    """Name a value that JSON does not support; an object's address would differ in each process."""
    if isinstance(value, Path):
        return str(value)
    kind = value if hasattr(value, '__qualname__') else type(value)
    return f'{kind.__module__}.{kind.__qualname__}'


def _data_digests(value: Any, place: str = '') -> Iterator[tuple[str, str | None]]:
    """Yield the place and the hash of each data set in a data loader's settings."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return
    if any(isinstance(value.get(key), str | os.PathLike | Mapping) for key in _DATA_KEYS):
        yield place, _data_digest(value)
    for key, one in value.items():
        if key != 'pipeline':
            yield from _data_digests(one, place if key == 'dataset' else f'{place}.{key}')


def _data_digest(dataset: Mapping[str, Any]) -> str | None:
    """Hash a data set's split file or, without one, its file names; None if they are missing."""
    root = Path(dataset.get('data_root') or '')
    if dataset.get('ann_file'):
        # mmkdml uses the path unchanged, the frameworks relative to data_root.
        paths = dict.fromkeys((Path(dataset['ann_file']), root / dataset['ann_file']))
        states = [(path, path.stat()) for path in paths if path.is_file()]
        digests = [_file_digest(path, one.st_size, one.st_mtime_ns) for path, one in states]
        digests += [_table_digest(path.parent) for path, _ in states]
        return ' '.join(filter(None, digests)) or None
    prefixes = dataset.get('data_prefix') or ''
    prefixes = [prefixes] if isinstance(prefixes, str) else sorted(map(str, prefixes.values()))
    digest, found = hashlib.sha256(), False
    for folder in {
        root / prefix: None for prefix in prefixes if dataset.get('data_root') or prefix
    }:
        for path, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                found = True
                digest.update(f'{os.path.relpath(Path(path, name), folder)}\0'.encode())
    return digest.hexdigest() if found else None


def _table_digest(folder: Path) -> str:
    """Hash the classes of masks and their values in a manifest; empty if there are none."""
    from mmkdml.datasets.class_masks import MASK_TABLE  # imports the frameworks
    from mmkdml.datasets.splits.manifest import read_manifest

    manifest = read_manifest(folder)
    table = manifest.get(MASK_TABLE)
    text = json.dumps([manifest.get('classes'), table], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if table else ''


@lru_cache(maxsize=256)
def _file_digest(path: Path, _size: int, _modified: int) -> str:
    return file_sha256(path)
