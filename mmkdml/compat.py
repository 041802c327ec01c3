"""Makes the stack mmkdml stands on importable, its YAML safe, its configs quick to print.

Runs once, with the import.

torchvision's compiled operators want the CUDA build of torch. Beside a CPU build its import stops
with ``operator torchvision::nms does not exist``, and mmpretrain imports torchvision. Declaring the
two operators' schemas is enough for everything but the operators themselves, which still raise when
they are called, as they should.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import mmengine.logging
import torch
import yaml  # type: ignore[import-untyped]
from mmengine.fileio import YamlHandler, register_handler
from yapf.yapflib import yapf_api

# Of a YAML file, with what aliases name counted each time that it is named.
_MOST_VALUES = 1_000_000
_KEPT_CONFIGS = 4
# A library must stay referenced: its operators vanish with it.
_declared: torch.library.Library | None = None


def import_torchvision() -> None:
    """Imports torchvision, declaring its two missing operators only if it asks for them."""
    global _declared
    try:
        importlib.import_module('torchvision')
    except ModuleNotFoundError:
        return  # mmpretrain says itself what it misses
    except RuntimeError as error:
        if 'torchvision::nms does not exist' not in str(error):
            raise
        _declared = torch.library.Library('torchvision', 'DEF')
        _declared.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _declared.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        importlib.import_module('torchvision')


class MissingOperators(ModuleType):
    """Stands for mmcv's compiled operators: has each one that is asked for, and calls none."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def operator(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f'mmcv-lite has no operator {name}; it is compiled into mmcv alone')

        return operator


def stand_in_for_mmcv_operators() -> None:
    """Lets mmseg 1.2 be imported beside mmcv-lite: it imports operators that it hardly ever calls.

    The forks' mmseg does without them by itself, and with mmcv they are there.
    """
    try:
        importlib.metadata.distribution('mmcv-lite')
    except importlib.metadata.PackageNotFoundError:
        return
    operators = MissingOperators('mmcv._ext')
    operators.__spec__ = ModuleSpec('mmcv._ext', loader=None)  # mmengine asks whether it has one
    sys.modules.setdefault('mmcv._ext', operators)


def load_yaml_safely() -> None:
    """Lets YAML files hold data alone, and no more than they seem to.

    mmengine's own loader calls what a tag in them names. Aliases of aliases make a few lines
    millions of values, as soon as something copies, merges or prints them.
    """

    class Loader(yaml.SafeLoader):
        """Knows of tuples, too, which mmengine writes."""

        def get_single_node(self) -> yaml.Node | None:
            node = super().get_single_node()
            if _count_values(node, {}) > _MOST_VALUES:
                raise yaml.YAMLError(f'its aliases stand for more than {_MOST_VALUES:,} values')
            return node

    Loader.add_constructor(
        'tag:yaml.org,2002:python/tuple',
        lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
    )

    @register_handler(['yaml', 'yml'])
    class SafeYamlHandler(YamlHandler):
        def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
            return super().load_from_fileobj(file, **{'Loader': Loader, **kwargs})


def _count_values(node: Any, known: dict[int, int]) -> int:
    """Of a node and all below it; what holds itself counts once and is told by who reads it."""
    if id(node) not in known:
        known[id(node)] = 1
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        parts = (part for one in below for part in (one if pairs else (one,)))
        known[id(node)] += sum(_count_values(part, known) for part in parts)
    return known[id(node)]


def lay_out_configs_once() -> None:
    """Keeps how mmengine laid out the text of the last configs.

    It does so several times when a run starts and again for each checkpoint, which takes a good
    fifth of a second.
    """
    lay_out = yapf_api.FormatCode
    known: dict[tuple[str, str], Any] = {}

    @functools.wraps(lay_out)
    def lay_out_once(text: str, **settings: Any) -> Any:
        key = text, repr(settings)
        if key not in known:
            if len(known) == _KEPT_CONFIGS:
                del known[next(iter(known))]
            known[key] = lay_out(text, **settings)
        return known[key]

    yapf_api.FormatCode = lay_out_once


def quiet_imports() -> None:
    """Keeps the frameworks' imports from talking about optional parts that nothing here uses.

    Hides the warning that mmcv has no compiled operators, drops the line that the frameworks print
    because one of their optional packages is missing, and stops albumentations from asking PyPI
    for a newer version whenever it is imported.
    """
    warnings.filterwarnings('ignore', message='.*MultiScaleDeformableAttention.*')
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    print_log = mmengine.logging.print_log

    @functools.wraps(print_log)
    def print_log_without_onedl(msg: Any, *args: Any, **kwargs: Any) -> None:
        if msg != 'Could not import OneDL':
            print_log(msg, *args, **kwargs)

    mmengine.logging.print_log = print_log_without_onedl
