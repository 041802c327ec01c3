"""Build the networks of a config for inspection, without weights, data or network access."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from mmkdml.inspection.image_size import data_image_size
from mmkdml.models.classroom_configs import (
    frozen_checkpoints,
    member_configs,
    replace_frozen_checkpoints,
)
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.distillers.preprocessing import shared_settings
from mmkdml.models.tasks import Task, task_of
from mmkdml.names import PLAIN
from mmkdml.registry import MODELS


@dataclass
class Inspection:
    """Networks of a config or model.

    Attributes:
        members: Networks by name. The only network of a baseline is called ``model``.
        task: Task of the members.
        input_size: (H, W) of the dummy images that the networks are run on: ``input_size`` of a
            classroom, otherwise the size of the config's data, otherwise the task's default.
        distiller: The classroom, or None for a baseline.
        checkpoints: Checkpoint file or folder of each frozen member that has one; not loaded.
    """

    members: dict[str, nn.Module]
    task: Task
    input_size: tuple[int, ...]
    distiller: KnowledgeDistiller | None = None
    checkpoints: dict[str, str] = field(default_factory=dict)


def inspect_config(config: Config) -> Inspection:
    """Build and inspect the model of a config without loading its weights.

    Args:
        config: Config whose ``model`` is a classroom, an mmpretrain classifier, an mmseg
            segmentor or an mmdet detector.

    Raises:
        TypeError: If the model is none of these.
        ValueError: If the model is missing or its settings are invalid.
    """
    use_default_scope(config)
    if not isinstance(config.get('model'), Mapping):
        raise ValueError(
            f'Invalid config: expected a model, a dict with a type, got {", ".join(config) or "no"}'
            ' keys'
        )
    settings = without_pretrained(config.model)
    if config.get('data_preprocessor') is not None:  # as in mmengine's Runner
        settings.setdefault('data_preprocessor', config.data_preprocessor)
    checkpoints = frozen_checkpoints(settings)
    replace_frozen_checkpoints(settings, lambda path: None)
    with only_errors():  # hide warnings about frozen members without weights, and timm's table
        try:
            model = MODELS.build(settings)
        except (KeyError, TypeError) as error:  # from mmengine: an unknown type or argument
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f'Invalid model of the config: {error}') from error
    paths = {name: str(path) for name, path in checkpoints.items() if path is not None}
    inspection = replace(inspect_model(model), checkpoints=paths)
    size = None if settings.get('input_size') else data_image_size(config)
    return replace(inspection, input_size=size or inspection.input_size)


def inspect_model(model: nn.Module) -> Inspection:
    """Inspect a classroom, an mmpretrain classifier, an mmseg segmentor or an mmdet detector.

    Raises:
        TypeError: If the model is none of these.
    """
    if isinstance(model, KnowledgeDistiller):
        return Inspection(model.named_members(), model.task, model.input_size, model)
    task = task_of({PLAIN: model})
    return Inspection({PLAIN: model}, task, task.default_input_size)


def classroom_settings(
    settings: Mapping[str, Any], distiller: KnowledgeDistiller
) -> tuple[dict[str, Any], Any]:
    """Return the configs of a classroom's members by name, and of its shared preprocessor.

    Args:
        settings: Config of the run as a dict.
        distiller: Classroom built from it.
    """
    model = settings['model']
    members = member_configs(model)
    own = {
        name: members[name]['data_preprocessor']
        for name in distiller.member_names
        if members[name].get('data_preprocessor')
    }
    base = model.get('data_preprocessor') or settings.get('data_preprocessor')
    shared = shared_settings(base, own, distiller.frozen_names)
    if shared is not None and 'type' not in shared:  # classifiers have a default type
        kind = type(distiller.data_preprocessor)
        shared = dict(shared, type=f'{kind.__module__}.{kind.__qualname__}')
    return members, shared


def use_default_scope(config: Config) -> None:
    """Initialize the default scope of a config; call it before building its classes."""
    if config.get('default_scope'):
        init_default_scope(config.default_scope)


def without_pretrained(config: Any) -> Any:
    """Return a copy of a model config without pretrained weights.

    Drops ``pretrained``, timm's ``checkpoint_path`` and every ``init_cfg`` of type ``Pretrained``,
    at any depth.
    """
    if isinstance(config, Mapping):
        kept = {
            key: without_pretrained(value)
            for key, value in config.items()
            if key not in ('pretrained', 'checkpoint_path')
            and not (key == 'init_cfg' and _is_pretrained(value))
        }
        # Detectors of two stages read the attributes of a ConfigDict.
        return ConfigDict(kept) if isinstance(config, ConfigDict) else kept
    if isinstance(config, (list, tuple)):
        return type(config)(
            without_pretrained(value) for value in config if not _is_pretrained(value)
        )
    return config


def _is_pretrained(init_cfg: Any) -> bool:
    kind = init_cfg.get('type') if isinstance(init_cfg, Mapping) else None
    name = getattr(kind, '__name__', str(kind))  # a class, its path, or its registered name
    return name.rpartition('.')[2] in ('Pretrained', 'PretrainedInit')


@contextmanager
def only_errors() -> Iterator[None]:
    """Suppress log records below ERROR within the context."""

    def keep(record: Any) -> bool:
        return record.levelno >= logging.ERROR

    logger = MMLogger.get_current_instance()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
