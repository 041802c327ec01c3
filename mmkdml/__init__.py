"""Knowledge distillation with learning styles for MMPretrain and MMSegmentation."""

from mmkdml.compat import (
    import_torchvision,
    lay_out_configs_once,
    load_yaml_safely,
    quiet_imports,
    stand_in_for_mmcv_operators,
)
from mmkdml.version import __version__

quiet_imports()
load_yaml_safely()
lay_out_configs_once()
import_torchvision()
stand_in_for_mmcv_operators()

__all__ = ['__version__']
