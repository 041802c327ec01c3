"""Prepare the libraries that mmkdml builds on; runs once, on import.

Subpackages that use MMPretrain or MMSegmentation import this module first.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import os
import sys
import warnings
from collections.abc import Iterator
from logging import LogRecord
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from mmengine.fileio import YamlHandler, register_handler
from mmengine.logging import MMLogger

from mmkdml.functional.nms import non_maximum_suppression
from mmkdml.operators import imgaug_modules, mmcv_operators
from mmkdml.packages import around_import, defer_imports, when_imported
from mmkdml.safe_yaml import SafeYamlLoader

# A library must stay referenced: its operators are removed with it.
_declared: torch.library.Library | None = None


def import_torchvision() -> None:
    """Import torchvision, declaring its missing operators if it fails without them.

    With a CPU build of PyTorch, importing a torchvision built for CUDA fails because the operators
    ``nms`` and ``qnms`` do not exist. ``torch.ops.torchvision.nms`` is computed without compiled
    code then, slower; ``qnms`` and ``torchvision.ops.nms`` raise an error.
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
        _declared.impl('nms', non_maximum_suppression, 'CompositeExplicitAutograd')
        importlib.import_module('torchvision')


def replace_missing_mmcv_operators() -> None:
    """Make ``mmcv.ops``, which mmdet and mmseg import, importable without compiled operators."""
    if 'mmcv._ext' not in sys.modules and importlib.util.find_spec('mmcv._ext') is None:
        sys.modules['mmcv._ext'] = mmcv_operators()


def load_yaml_safely() -> None:
    """Make mmengine read YAML files as data; its loader would call functions named by tags."""

    @register_handler(['yaml', 'yml'])
    class SafeYamlHandler(YamlHandler):
        def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
            return super().load_from_fileobj(file, **{'Loader': SafeYamlLoader, **kwargs})


@contextlib.contextmanager
def hide_mmdet(module: Any) -> Iterator[None]:
    """Let imports of mmdet fail, unless it has been imported.

    MMPretrain and MMSegmentation import it for three classes, which takes seconds.

    Args:
        module: The module that is imported meanwhile.
    """
    hidden = {'mmdet', 'mmdet.models'} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def import_mmdet(models: Any) -> Iterator[None]:
    """Import mmdet without a warning, and complete the three classes that needed it.

    The warning is about missing operators of CLRNet.

    Args:
        models: The module ``mmdet.models``.
    """
    logger = MMLogger.get_current_instance()

    def is_other(record: LogRecord) -> bool:
        return not record.getMessage().startswith('Line NMS is not compiled')

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
    for name in ('MaskFormerHead', 'Mask2FormerHead'):
        if 'mmseg.models' in sys.modules:
            head, base = getattr(sys.modules['mmseg.models'], name), getattr(models, name)
            head.__bases__ = (base,)
            setattr(sys.modules[head.__module__], f'MMDET_{name}', base)
    layer = sys.modules.get('mmpretrain.models.utils.res_layer_extra_norm')
    if layer is not None and layer.ResLayerExtraNorm is None:
        importlib.reload(layer)


@contextlib.contextmanager
def import_mmdet_datasets(module: Any) -> Iterator[None]:
    """Import the data sets of mmdet without imgaug and without a message.

    Args:
        module: The module ``mmdet.datasets``.
    """
    missing = {} if importlib.util.find_spec('imgaug') else imgaug_modules()
    sys.modules.update(missing)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # 'Could not import OneDL', twice
            yield
    finally:
        for name in missing:
            del sys.modules[name]


@contextlib.contextmanager
def defer_function(name: str, function: str, module: Any) -> Iterator[None]:
    """Defer the import of a module until a function that another module takes from it is called.

    Args:
        name: Name of the deferred module.
        function: Name of the function.
        module: The module that imports it.
    """
    stub = ModuleType(name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(name), function)(*args, **kwargs)

    setattr(stub, function, call)
    sys.modules.setdefault(name, stub)
    try:
        yield
    finally:
        if sys.modules[name] is stub:
            del sys.modules[name]


@contextlib.contextmanager
def defer_huggingface_hub(module: Any) -> Iterator[None]:
    """Defer the import of the Hugging Face client by albumentations until it is used.

    Args:
        module: The module ``albumentations.core.hub_mixin``.
    """
    hidden = {'huggingface_hub'} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
    if hidden:
        module.is_huggingface_hub_available = _HuggingFaceHub(module)


def defer_figure(module: Any) -> None:
    """Defer the figure of mmengine's visualizer until it draws; a training only logs numbers.

    Args:
        module: The module ``mmengine.visualization.visualizer``.
    """
    kind: Any = module.Visualizer
    initialize, names = kind.__init__, ('fig_save_canvas', 'fig_save', 'ax_save')

    @functools.wraps(initialize)
    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        self._initialize_fig = lambda config: (None, SimpleNamespace(get_dpi=int), None)
        initialize(self, *args, **kwargs)
        for name in ('_initialize_fig', 'dpi', *names):
            delattr(self, name)

    def get(self: Any, name: str) -> Any:
        if name not in ('dpi', *names):
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        vars(self).update(zip(names, self._initialize_fig(self.fig_save_cfg), strict=True))
        self.dpi = self.fig_save.get_dpi()
        return vars(self)[name]

    start.__signature__ = inspect.signature(initialize)  # type: ignore[attr-defined]
    kind.__init__, kind.__getattr__ = start, get


class _HuggingFaceHub:
    """Flag that imports the package when it is evaluated; true if it is installed."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __bool__(self) -> bool:
        try:
            hub = importlib.import_module('huggingface_hub')
            utils = importlib.import_module('huggingface_hub.utils')
        except ImportError:
            return False
        for package, names in (
            (hub, ('HfApi', 'hf_hub_download')),
            (utils, ('HfHubHTTPError', 'SoftTemporaryDirectory')),
        ):
            for name in names:
                setattr(self.module, name, getattr(package, name))
        return True


def import_frameworks() -> None:
    """Import MMPretrain and MMSegmentation without messages about optional packages.

    Albumentations, which they import, would query PyPI for a newer version.
    """
    for note in (
        'faster_coco_eval is not installed',
        'DeprecationWarning: `num_anchors`',
    ):  # of mmdet
        warnings.filterwarnings('ignore', message=note)
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    # mmdet's own heads use the old name.
    warnings.filterwarnings('ignore', message='DeprecationWarning: `num_anchors` is deprecated')
    with contextlib.redirect_stdout(io.StringIO()):  # 'Could not import OneDL', three times
        importlib.import_module('mmpretrain.datasets')
        importlib.import_module('mmseg.datasets')


load_yaml_safely()
# A training does not need these modules, which take a sixth of the time until its first step.
defer_imports(
    *('mmseg.utils.tokenizer', 'pandas', 'scipy.interpolate', 'scipy.special', 'timm'),
    *('torchvision.datasets', 'torchvision.models'),
)
when_imported('mmengine.visualization.visualizer', defer_figure)
around_import('albumentations.core.hub_mixin', defer_huggingface_hub)
for importing, name, function in (
    ('mmseg.datasets.transforms.transforms', 'scipy.ndimage', 'gaussian_filter'),
    ('mmseg.models.losses.huasdorff_distance_loss', 'scipy.ndimage', 'distance_transform_edt'),
    ('mmseg.models.assigners.hungarian_assigner', 'scipy.optimize', 'linear_sum_assignment'),
    ('mmseg.utils', 'mmseg.utils.tokenizer', 'tokenize'),
):
    around_import(importing, functools.partial(defer_function, name, function))
import_torchvision()
replace_missing_mmcv_operators()
around_import('mmpretrain.models', hide_mmdet)
around_import('mmseg.models', hide_mmdet)
around_import('mmdet.models', import_mmdet)
around_import('mmdet.datasets', import_mmdet_datasets)
import_frameworks()
