"""Registries of mmkdml, children of mmengine's registries.

Text configs name classes with scope, e.g. ``type='mmkdml.DiversifiedKDMLDistiller'``. The configs
of this project contain the classes themselves, so that an editor can follow them.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry


class _Registry(Registry):
    """Registry of a subpackage, which also finds the classes that it exports lazily.

    Their modules import a framework that only some tasks need, such as mmdet.
    """

    def __init__(self, name: str, parent: Registry, package: str) -> None:
        self.package = f'mmkdml.{package}'
        super().__init__(name, parent=parent, scope='mmkdml', locations=[self.package])

    def get(self, key: str) -> type | None:
        """Return a class by its name, with or without a scope; see mmengine's ``Registry``."""
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope) and name not in self.module_dict:
            getattr(importlib.import_module(self.package), name, None)  # registers it
        return super().get(key)


def build_with_inferred(config_or_module: Any, **inferred: Any) -> Any:
    """Build a module from its config, with the inferred arguments that its constructor accepts.

    Args:
        config_or_module: Config of a model, or a built module, which is returned.
        **inferred: Arguments that the config does not need to set; None is left out.
    """
    if not isinstance(config_or_module, Mapping):
        return config_or_module
    config = dict(config_or_module)
    kind = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    accepted = inspect.signature(kind).parameters if kind else ()
    arguments = {
        key: value for key, value in inferred.items() if key in accepted and value is not None
    }
    return MODELS.build({**arguments, **config})


MODELS = _Registry('model', mmengine_registry.MODELS, 'models')
DATASETS = _Registry('dataset', mmengine_registry.DATASETS, 'datasets')
TRANSFORMS = _Registry('transform', mmengine_registry.TRANSFORMS, 'datasets')
METRICS = _Registry('metric', mmengine_registry.METRICS, 'evaluation')
HOOKS = _Registry('hook', mmengine_registry.HOOKS, 'engine')
OPTIM_WRAPPERS = _Registry('optimizer wrapper', mmengine_registry.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _Registry(
    'optimizer wrapper constructor', mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine'
)
PARAM_SCHEDULERS = _Registry('parameter scheduler', mmengine_registry.PARAM_SCHEDULERS, 'models')
