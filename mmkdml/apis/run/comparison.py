"""Comparison of a config with that of the run whose weights it is used with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdml.apis.run.settings import DATA, changed_settings, deciding_settings, settings_difference
from mmkdml.files import is_regular
from mmkdml.inspection.config import without_pretrained
from mmkdml.models.classroom_configs import replace_frozen_checkpoints
from mmkdml.names import IDENTITY_FILE

Changes = dict[str, tuple[Any, Any]]
_EVALUATION_PARTS = ('model', 'data_preprocessor', 'test_dataloader', 'test_evaluator', 'test_cfg')
_BATCHES = ('batch_size', 'sampler', 'batch_sampler', 'drop_last', 'collate_fn')


def recorded_config(folder: str | Path) -> Path | None:
    """Find the config in the folder of a run.

    Returns:
        The config that ``identity.json`` names, otherwise the only one (``*.py``); None if there is
        none, or more than one.
    """
    configs = sorted(Path(folder).glob('*.py'))
    named = recorded_identity(folder).get('config')
    named_one = [path for path in configs if path.name == named]
    return next(iter(named_one or (configs if len(configs) == 1 else ())), None)


def own_config_file(folder: str | Path) -> Path:
    """Find the config in the folder of a run or of a published model.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it has no config, or several and none is known to be the run's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f'There is no folder {folder}: expected that of a run, or a config (*.py) and a '
            'checkpoint'
        )
    path = recorded_config(folder)
    if path is None:
        found = ', '.join(sorted(path.name for path in folder.glob('*.py'))) or 'none'
        raise ValueError(
            f'expected one config (*.py) in the folder {folder}, got {found}. Pass a config and '
            'then the folder'
        )
    return path


def recorded_identity(folder: str | Path) -> Mapping[str, Any]:
    """Return the identity in a run's folder, empty if there is none."""
    path = Path(folder, IDENTITY_FILE)
    try:
        identity = json.loads(path.read_text()) if is_regular(path) else {}
    except ValueError:
        identity = {}
    return identity if isinstance(identity, Mapping) else {}


def evaluation_changes(own: Config, config: Config, only_prediction: bool = False) -> Changes:
    """Compare the settings of two configs that determine the results of a test.

    Args:
        own: Config of the run.
        config: Config to use with its weights.
        only_prediction: Compare only the model and the preprocessing of images.

    Returns:
        Old and new value by dotted key.
    """
    changes = changed_settings(
        *(_evaluation_settings(one, only_prediction) for one in (own, config))
    )
    if any(key.endswith('.ann_file') for key in changes):  # explains other hashes
        changes = {key: both for key, both in changes.items() if not key.startswith(f'{DATA}.')}
    return changes


def check_own_config(
    config: Config, folder: str | Path, use_config: bool = False, only_prediction: bool = False
) -> None:
    """Refuse a config that differs from that of the run whose weights it would be used with.

    Args:
        config: The config, with the options of the command line.
        folder: Folder of the run.
        use_config: Print the difference instead.
        only_prediction: Compare only the model and the preprocessing of images.

    Raises:
        ValueError: If the settings differ, without ``use_config``.
    """
    path = recorded_config(folder)
    if path is None or (config.filename and path.resolve() == Path(config.filename).resolve()):
        return
    changes = evaluation_changes(Config.fromfile(path), config, only_prediction)
    if not changes:
        return
    difference = settings_difference(changes)
    if not use_config:
        raise ValueError(
            f'{config.filename}: expected the settings of the run {folder}, got others '
            f'(run -> config):\n{difference}\nUse the settings of the run: pass only {folder}. Or '
            'use those of the config: add --use-config'
        )
    print(
        f'{config.filename} differs from the settings of the run {folder} (run -> config):\n'
        f'{difference}',
        file=sys.stderr,
    )


def _evaluation_settings(config: Config, only_prediction: bool) -> dict[str, Any]:
    settings = deciding_settings(config, _EVALUATION_PARTS)
    if isinstance(settings['model'], dict):
        settings['model'] = without_pretrained(settings['model'])
        replace_frozen_checkpoints(settings['model'], lambda path: 'file')
    loader = settings['test_dataloader']
    if only_prediction:
        dataset = loader.get('dataset') if isinstance(loader, dict) else None
        pipeline = dataset.get('pipeline') if isinstance(dataset, dict) else None
        kept = {key: settings[key] for key in ('model', 'data_preprocessor')}
        return {**kept, 'test_dataloader': {'dataset': {'pipeline': pipeline}}}
    if isinstance(loader, dict):
        settings['test_dataloader'] = {
            key: value for key, value in loader.items() if key not in _BATCHES
        }
    settings[DATA] = {key: value for key, value in settings[DATA].items() if value is not None}
    return settings
