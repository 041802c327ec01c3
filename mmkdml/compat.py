"""Prepare the libraries that mmkdml builds on; runs once, on import.

Subpackages that use MMPretrain or MMSegmentation import this module first.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from mmengine.fileio import YamlHandler, register_handler

from mmkdml.safe_yaml import SafeYamlLoader

# A library must stay referenced: its operators are removed with it.
_declared: torch.library.Library | None = None


def import_torchvision() -> None:
    """Import torchvision, declaring its missing operators if it fails without them.

    With a CPU build of PyTorch, importing a torchvision built for CUDA fails because the operators
    ``nms`` and ``qnms`` do not exist. Declaring them suffices; calling them still raises an error.
    """
    global _declared
    try:
        importlib.import_module('torchvision')
    except ModuleNotFoundError:
        return  # importing mmpretrain reports the missing package
    except RuntimeError as error:
        if 'torchvision::nms does not exist' not in str(error):
            raise
        _declared = torch.library.Library('torchvision', 'DEF')
        _declared.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _declared.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        importlib.import_module('torchvision')


class MissingOperators(ModuleType):
    """Placeholder for mmcv's compiled operators: every name exists, but calls raise an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def operator(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f'mmcv-lite has no operator {name}; install the compiled mmcv')

        return operator


def replace_missing_mmcv_operators() -> None:
    """Make mmseg 1.2, which imports compiled operators of mmcv, importable with mmcv-lite."""
    try:
        importlib.metadata.distribution('mmcv-lite')
    except importlib.metadata.PackageNotFoundError:
        return
    operators = MissingOperators('mmcv._ext')
    operators.__spec__ = ModuleSpec('mmcv._ext', loader=None)  # mmengine reads the loader
    sys.modules.setdefault('mmcv._ext', operators)


def load_yaml_safely() -> None:
    """Make mmengine read YAML files as data; its loader would call functions named by tags."""

    @register_handler(['yaml', 'yml'])
    class SafeYamlHandler(YamlHandler):
        def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
            return super().load_from_fileobj(file, **{'Loader': SafeYamlLoader, **kwargs})


def import_frameworks() -> None:
    """Import MMPretrain and MMSegmentation without messages about optional packages.

    Albumentations, which they import, would query PyPI for a newer version.
    """
    warnings.filterwarnings('ignore', message='.*MultiScaleDeformableAttention.*')
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    with contextlib.redirect_stdout(io.StringIO()):  # 'Could not import OneDL', three times
        importlib.import_module('mmpretrain.datasets')
        importlib.import_module('mmseg.datasets')


load_yaml_safely()
import_torchvision()
replace_missing_mmcv_operators()
import_frameworks()
