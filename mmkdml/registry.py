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


class _LazyRegistry(Registry):
    """Registry that also finds the classes that its packages export lazily.

    Their modules import a framework that is only needed by some tasks, such as mmdet.
    """

    def get(self, key: str) -> type | None:
        """Return a class by its name, with or without a scope; see mmengine's ``Registry``."""
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope) and name not in self.module_dict:
            for location in self._locations:
                getattr(importlib.import_module(location), name, None)  # registers it
        return super().get(key)


def _child(name: str, parent: Registry, module: str) -> Registry:
    return _LazyRegistry(name, parent=parent, scope='mmkdml', locations=[f'mmkdml.{module}'])


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


MODELS = _child('model', mmengine_registry.MODELS, 'models')
DATASETS = _child('dataset', mmengine_registry.DATASETS, 'datasets')
TRANSFORMS = _child('transform', mmengine_registry.TRANSFORMS, 'datasets')
METRICS = _child('metric', mmengine_registry.METRICS, 'evaluation')
HOOKS = _child('hook', mmengine_registry.HOOKS, 'engine')
OPTIM_WRAPPERS = _child('optimizer wrapper', mmengine_registry.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine'
)
PARAM_SCHEDULERS = _child('parameter scheduler', mmengine_registry.PARAM_SCHEDULERS, 'models')
