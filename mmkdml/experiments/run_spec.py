"""Specification of a run, its config, and the settings that decide its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkdml.apis.run_settings import (
    DATA,
    TRAINING_PARTS,
    changed_settings,
    deciding_settings,
    settings_difference,
)
from mmkdml.names import TEACHER

if TYPE_CHECKING:
    from mmengine.config import Config

# A run is also tested. The seed is part of its specification.
_DECIDING_PARTS = (
    *(part for part in TRAINING_PARTS if part != 'randomness'),
    'test_dataloader', 'test_evaluator', 'test_cfg',
)  # fmt: skip


@dataclass(frozen=True)
class RunSpec:
    """Specification of a run: a config with a seed and changed settings.

    Attributes:
        name: Name of the run, the same for all seeds; starts with the variant if the suite has
            variants (``hot/kdml_v3``).
        seed: Random seed.
        config: Config file, relative to the working directory.
        options: Changed settings by dotted key.
        teacher: Name of the run that trains the frozen teacher. Its best checkpoint with the same
            seed is used.
        amp: Train in mixed precision.
    """

    name: str
    seed: int
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    amp: bool = False

    @property
    def key(self) -> str:
        """Unique name of the run and its folder, e.g. ``kdml_v3/seed_0``."""
        return run_key(self.name, self.seed)


def run_key(name: str, seed: int) -> str:
    """Return ``<name>/seed_<seed>``."""
    return f'{name}/seed_{seed}'


def run_config(spec: RunSpec, work_dir: str | Path = '') -> Config:
    """Load the config of a run and apply its options, seed and precision.

    The name of the teacher's run is a placeholder for its folder, see :func:`set_teacher`: it
    decides the result, the folder does not.
    """
    from mmkdml.apis import load_config, use_amp  # not needed to read a suite and its database

    config = load_config(spec.config, spec.options, work_dir)
    config.randomness = dict(config.get('randomness') or {}, seed=spec.seed)
    if spec.amp:
        use_amp(config)
    if spec.teacher is not None:
        set_teacher(config, spec.teacher)
    return config


def set_teacher(config: Config, teacher: str | Path) -> None:
    """Set the checkpoint, or the folder of the run, that the frozen teacher is loaded from."""
    from mmkdml.apis.options import merge_options

    merge_options(config, {teacher_option(config): str(teacher)})


def teacher_option(config: Config) -> str:
    """Return the dotted key of the setting that has the teacher's checkpoint."""
    from mmkdml.models.classroom_configs import frozen_checkpoint_option

    return frozen_checkpoint_option(config.model, TEACHER)


def settings_text(config: Config) -> str:
    """Return the settings and hashes of data that decide a run's result, except its seed, as JSON.

    The hash of missing data is null. Use :func:`settings_changes` to compare two texts.
    """
    return json.dumps(deciding_settings(config, _DECIDING_PARTS), indent=1, sort_keys=True)


def settings_changes(before: str, after: str) -> str:
    """Format the differences between two settings texts, also of earlier versions.

    Args:
        before: Result of :func:`settings_text`, optionally preceded by lines of ``key: <JSON>``.
        after: The same.

    Returns:
        One ``key: old -> new`` per line; empty if the texts do not differ.
    """
    try:
        return settings_difference(changed_settings(_parsed(before), _parsed(after)))
    except (ValueError, TypeError, RecursionError):
        return '' if before == after else '  one of them is damaged'


def has_data_hashes(settings: str) -> bool:
    """Return whether a settings text has the hash of every part of the data."""
    try:
        data = _parsed(settings).get(DATA)
    except (ValueError, TypeError, RecursionError):
        return False
    return isinstance(data, Mapping) and None not in data.values()


def _parsed(text: str) -> dict[str, Any]:
    lines, brace, rest = text.partition('{\n')
    pairs = (line.partition(': ') for line in lines.splitlines())
    values = {key: json.loads(value) for key, _, value in pairs}
    return values | json.loads(brace + rest or '{}')
