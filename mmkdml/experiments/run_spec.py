"""Specification of a run, its config, and the settings that determine its result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkdml.apis.run.settings import (
    DATA,
    TRAINING_PARTS,
    changed_settings,
    deciding_settings,
    settings_difference,
)
from mmkdml.names import TEACHER

if TYPE_CHECKING:
    from mmengine.config import Config

# Unlike a training, a run is also tested, and its seed is recorded separately.
_DECIDING_PARTS = (
    *(part for part in TRAINING_PARTS if part != 'randomness'),
    'test_dataloader', 'test_evaluator', 'test_cfg',
)  # fmt: skip


@dataclass(frozen=True)
class RunSpec:
    """Specification of a run: a config with a seed and changed settings.

    Attributes:
        name: Name of the run, the same for all seeds; with the variant as prefix if the suite has
            variants (``hot/kdml_v3``), and with the fold as suffix if it has folds
            (``kdml_v3/fold_2``).
        seed: Random seed.
        config: Config file, relative to the working directory.
        options: Changed settings by dotted key.
        teacher: Name of the run that trains the frozen teacher; the best checkpoint of the same
            seed is loaded. None if the run has no teacher in the suite.
        amp: Train in mixed precision.
        fold: Fold of a cross-validation; None without folds.
        without: Second fold whose test images are left out, for out-of-fold teachers.
        fold_teachers: Runs of the teachers by fold of the images that they teach, instead of one
            ``teacher``; None for the fold of this run. Empty if there is one teacher, or none.
    """

    name: str
    seed: int
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    amp: bool = False
    fold: int | None = None
    without: int | None = None
    fold_teachers: Sequence[str | None] = ()

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the runs that must be done first."""
        names = self.fold_teachers or (self.teacher,)
        return tuple(name for name in names if name is not None)

    @property
    def run(self) -> str:
        """Name of the run without its fold."""
        return self.name if self.fold is None else self.name.rpartition('/')[0]

    @property
    def key(self) -> str:
        """Unique key of the run and relative path of its folder, e.g. ``kdml_v3/seed_0``."""
        return run_key(self.name, self.seed)


def run_key(name: str, seed: int) -> str:
    """Return ``<name>/seed_<seed>``."""
    return f'{name}/seed_{seed}'


def run_config(spec: RunSpec, work_dir: str | Path = '') -> Config:
    """Load the config of a run and apply its options, seed and precision.

    The teacher's checkpoint is set to the name of its run, because the folder, which
    :func:`set_teacher` sets later, does not affect the result.
    """
    from mmkdml.apis import load_config, set_fold, use_amp  # imported late: slow, often not needed

    config = load_config(spec.config, spec.options, work_dir)
    if spec.fold is not None:
        set_fold(config, spec.fold, spec.without)
    config.randomness = dict(config.get('randomness') or {}, seed=spec.seed)
    if spec.amp:
        use_amp(config)
    if spec.teachers:
        set_teacher(config, ' '.join(spec.teachers))
    return config


def set_teacher(config: Config, teacher: str | Path) -> None:
    """Set the checkpoint, or the run's folder, from which the frozen teacher is loaded."""
    from mmkdml.apis.options import merge_options

    merge_options(config, {teacher_option(config): str(teacher)})


def teacher_option(config: Config) -> str:
    """Return the dotted key of the teacher's checkpoint in a config."""
    from mmkdml.models.classroom_configs import frozen_checkpoint_option

    return frozen_checkpoint_option(config.model, TEACHER)


def settings_text(config: Config) -> str:
    """Return the settings and data hashes that determine a run's result, without the seed, as JSON.

    The hash of missing data is null. Use :func:`settings_changes` to compare two texts.
    """
    return json.dumps(deciding_settings(config, _DECIDING_PARTS), indent=1, sort_keys=True)


def settings_changes(before: str, after: str) -> str:
    """Format the differences between two settings texts, also of earlier versions of mmkdml.

    Args:
        before: Old settings: result of :func:`settings_text`, optionally preceded by lines of the
            form ``key: <JSON>``.
        after: New settings.

    Returns:
        One ``key: old -> new`` per line; empty if nothing differs.
    """
    try:
        return settings_difference(changed_settings(_parsed(before), _parsed(after)))
    except (ValueError, TypeError, RecursionError):
        return '' if before == after else '  the recorded settings are damaged'


def has_data_hashes(settings: str) -> bool:
    """Return whether a settings text has the hashes of all data sets."""
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
