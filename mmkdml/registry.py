"""Registries of mmkdml, children of mmengine's registries.

Any registry finds a class by a string with scope (``mmkdml.DiversifiedKDMLDistiller``). The configs
of this project use classes instead, so that an editor can follow them.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmkdml', locations=['mmkdml.models'])
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='mmkdml', locations=['mmkdml.datasets']
)
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope='mmkdml', locations=['mmkdml.datasets']
)
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='mmkdml', locations=['mmkdml.evaluation']
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmkdml', locations=['mmkdml.engine'])
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmkdml', locations=['mmkdml.engine']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmkdml',
    locations=['mmkdml.engine'],
)

__all__ = [
    'DATASETS',
    'HOOKS',
    'METRICS',
    'MODELS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'TRANSFORMS',
]
