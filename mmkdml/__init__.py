"""Knowledge distillation with learning styles for MMPretrain, MMSegmentation and MMDetection."""

import importlib
from types import ModuleType

from mmkdml.packages import (
    inherit_python_configs,
    refuse_to_install,
    register_modules,
    when_imported,
)
from mmkdml.version import __version__

_SUBPACKAGES = (
    'analysis', 'apis', 'datasets', 'engine', 'evaluation', 'experiments', 'functional',
    'inspection', 'models', 'statistics',
)  # fmt: skip

__all__ = ['__version__']

when_imported('mmengine.config.utils', register_modules)
when_imported('mmengine.config.config', inherit_python_configs)
when_imported('mmengine.hub.hub', refuse_to_install)


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage on first use, as in ``mmkdml.models``."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})
