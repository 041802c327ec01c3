"""Check that training, validation and test share no image and no patient."""

from __future__ import annotations

import os
import os.path as osp
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmkdml.commands import tool_command
from mmkdml.datasets.base import SplitFileMixin
from mmkdml.datasets.splits.manifest import read_manifest
from mmkdml.engine.distributed import raise_in_all_processes
from mmkdml.names import SPLITS
from mmkdml.registry import HOOKS

ERROR, WARN = POLICIES = ('error', 'warn')
#: Config key of the policy.
SETTING = 'split_overlap'
_MAX_NAMES = 3  # per message
_KINDS = dict(id='ids', file='image files', group='groups')


@HOOKS.register_module()
class SplitOverlapHook(Hook):
    """Check before training or testing that no two parts share an id, an image file or a group.

    All three parts of the config are compared, even those that the run does not use. Symbolic and
    hard links to a file count as the same file; copies are not detected. Data sets of other
    libraries are compared only by the ``img_path`` of their samples, if they have one.

    An overlap is an error, but only a warning

    - if the config has ``split_overlap='warn'``;
    - for groups, if the split files were made with ``--split-by image``;
    - for validation and test, if both have the same data set settings (``test_dataloader =
      val_dataloader``).

    An unreadable part that the run does not use is skipped with a warning.

    Raises:
        ValueError: If ``split_overlap`` is neither ``'error'`` nor ``'warn'``, or parts overlap.
    """

    def __init__(self) -> None:
        self._checked = False

    @raise_in_all_processes()
    def before_train(self, runner: Runner) -> None:
        """Check the parts of the config."""
        needed = dict(train=runner.train_dataloader.dataset)
        if runner.val_loop is not None:
            needed['val'] = runner.val_dataloader.dataset
        self._check(runner, needed)

    @raise_in_all_processes()
    def before_test(self, runner: Runner) -> None:
        """Check the parts of the config, unless the runner's training already did."""
        self._check(runner, dict(test=runner.test_dataloader.dataset))

    def _check(self, runner: Runner, needed: Mapping[str, Any]) -> None:
        if self._checked:
            return
        policy = runner.cfg.get(SETTING, ERROR)
        if policy not in POLICIES:
            raise ValueError(
                f'Invalid setting {SETTING}: expected one of {", ".join(POLICIES)}, got {policy!r}'
            )
        datasets = dict(needed)
        settings = {part: runner.cfg.get(f'{part}_dataloader') for part in SPLITS}
        for part in SPLITS:
            if part in needed or settings[part] is None:
                continue
            try:
                datasets[part] = _build(settings[part]['dataset'])
            except Exception as error:  # Data sets raise any type.
                runner.logger.warning(
                    f'The {part} part is not compared with the others because reading it failed '
                    f'({type(error).__name__}: {error})'
                )
        parts = {part: _keys(datasets[part]) for part in SPLITS if part in datasets}
        by_image = any(map(_is_split_by_image, datasets.values()))
        for one, other in combinations(parts, 2):
            same = {one, other} == {'val', 'test'} and _same_dataset(settings[one], settings[other])
            shared = {kind: parts[one][kind].keys() & parts[other][kind].keys() for kind in _KINDS}
            for kind in [kind for kind in _KINDS if shared[kind]]:
                names = sorted({parts[other][kind][key] for key in shared[kind]})
                more = f' and {len(names) - _MAX_NAMES} more' if len(names) > _MAX_NAMES else ''
                message = (
                    f'The {one} and {other} parts share {_KINDS[kind]}: '
                    f'{", ".join(map(repr, names[:_MAX_NAMES]))}{more}.'
                )
                if policy == WARN or same or (kind == 'group' and by_image):
                    runner.logger.warning(f'{message} Scores of {other} may be too good')
                    continue
                raise ValueError(
                    f'{message} Correct the ann_file of the data loaders or split the data again '
                    f'({tool_command("dataset_converters")}). If it is intended, set '
                    f"{SETTING}='{WARN}' in the config"
                )
        self._checked = True


def _same_dataset(one: Any, other: Any) -> bool:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return False
    # The pipelines may differ, by test-time augmentation.
    first, second = (_without_pipelines(loader.get('dataset')) for loader in (one, other))
    return first == second


def _build(settings: Any) -> Any:
    """Build a data set without its transforms and image cache."""
    if not isinstance(settings, Mapping):
        return settings
    return DATASETS.build(_without_pipelines(settings))


def _without_pipelines(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return {
            key: [] if key == 'pipeline' else _without_pipelines(value)
            for key, value in settings.items()
            if key != 'image_cache'
        }
    if isinstance(settings, list | tuple):
        return [_without_pipelines(value) for value in settings]
    return settings


def _keys(dataset: Any) -> dict[str, dict[Any, str]]:
    """Return keys of the ids, files and groups of a data set, each with a name for messages."""
    found: dict[str, dict[Any, str]] = defaultdict(dict)
    # In other data sets these keys may just number the samples.
    own = ('id', 'group') if all(isinstance(x, SplitFileMixin) for x in _leaves(dataset)) else ()
    while not hasattr(dataset, 'get_data_info') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset  # A wrapper that mixes samples.
    if not hasattr(dataset, 'get_data_info'):
        return found
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        if not isinstance(info, Mapping):
            return found
        for kind in own:
            found[kind][info[kind]] = info[kind]
        path = info.get('img_path')
        if isinstance(path, str):
            found['file'][_file_key(path)] = path
    return found


def _file_key(path: str) -> Any:
    """Return a key that is equal for all names of one file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # A remote path.
        return path
    # Some file systems have no inode numbers.
    return (status.st_dev, status.st_ino) if status.st_ino else osp.realpath(path)


def _is_split_by_image(dataset: Any) -> bool:
    return any(
        read_manifest(osp.dirname(one.ann_file)).get('split_by') == 'image'
        for one in _leaves(dataset)
        if isinstance(one, SplitFileMixin)
    )


def _leaves(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside wrappers."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
    else:
        for one in inner:
            yield from _leaves(one)
