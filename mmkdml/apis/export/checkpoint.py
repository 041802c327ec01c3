"""Export of one network as a config and weights for its framework."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from safetensors.torch import save_file

from mmkdml.apis.export.checks import framework_predictor
from mmkdml.apis.export.graph import PredictFn
from mmkdml.apis.export.source import ExportSource
from mmkdml.commands import tool_command
from mmkdml.inspection.config import classroom_settings, without_pretrained
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.names import ENSEMBLE
from mmkdml.registry import MODELS, TRANSFORMS

# Left out, so that the frameworks build their default losses instead of ours.
_LOSSES = ('loss', 'loss_decode')
# Replacements for our classes with equal outputs: (class, dropped arguments).
_STOCK = {
    'PretrainedTIMMBackbone': ('mmpretrain.TIMMBackbone', ('pretrained_cfg_overlay',)),
    'LoadCheckedImage': ('mmcv.LoadImageFromFile', ()),
}
_FRAMEWORKS = ('mmpretrain', 'mmseg', 'mmdet')
_STOCK_PACKAGES = (*_FRAMEWORKS, 'mmcv', 'mmengine', 'torch')
# Scope, visualizer and data set by task.
_CLASSIFICATION = ('mmpretrain', 'UniversalVisualizer', 'CustomDataset')
_SETTINGS = dict(
    segmentation=('mmseg', 'SegLocalVisualizer', 'BaseSegDataset'),
    detection=('mmdet', 'DetLocalVisualizer', 'CocoDataset'),
)
# Metainfo of the data that tools of the frameworks read.
_META = ('classes', 'palette')
# Transforms that load annotations.
_ANNOTATIONS = re.compile('Load(?!Image|CheckedImage|MultiChannelImage)')


def write_checkpoint(source: ExportSource, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Write ``<name>.py``, ``<name>.pth`` and ``<name>.safetensors``.

    The config uses the names in the registries of MMPretrain, MMSegmentation or MMDetection, and
    contains the preprocessing and the test pipeline without annotations, so that their inferencers
    work with it. The checkpoint contains only weights and class names, and loads with
    ``weights_only=True``.

    Args:
        source: One network.
        folder: Existing folder to write to.

    Returns:
        The config file, and the classes of other packages that the config needs. If there are none,
        the files do not require mmkdml.

    Raises:
        ValueError: If the source is an ensemble, which the frameworks do not support.
    """
    if source.what == ENSEMBLE:
        graph = '' if source.detects else 'export the ensemble as onnx or torch-export, '
        raise ValueError(
            'Ensembles are not supported by MMPretrain, MMSegmentation and MMDetection. Export '
            f'each student, {graph}or publish it for use with mmkdml ({tool_command("publish")})'
        )
    (member,) = source.members.values()
    weights = {name: value.contiguous() for name, value in member.state_dict().items()}
    config, needs = plain_config(source)
    path = folder / f'{source.name}.py'
    config.dump(path)
    content = dict(state_dict=weights, meta=dict(dataset_meta=source.meta))
    torch.save(content, path.with_suffix('.pth'))
    texts = {key: json.dumps(value) for key, value in source.meta.items()}
    # Copies, because safetensors refuses shared tensors, such as those of RTMDet's head.
    copies = {name: value.clone() for name, value in weights.items()}
    save_file(copies, path.with_suffix('.safetensors'), texts)
    return path, needs


def checkpoint_predictor(path: Path, source: ExportSource) -> PredictFn:
    """Load a written config with its weights, with ``strict=True``."""
    config = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        network = MODELS.build(config.model)
    network.load_state_dict(load_checkpoint_file(path.with_suffix('.pth'))['state_dict'])
    return framework_predictor(
        dataclasses.replace(
            source, members={source.what: network.eval()}, preprocessor=network.data_preprocessor
        )
    )


def plain_config(source: ExportSource) -> tuple[Config, tuple[str, ...]]:
    """Build the config of one network for its framework, and list the classes that it lacks."""
    scope, visualizer, dataset = _SETTINGS.get(source.inspection.task.name, _CLASSIFICATION)
    settings = source.config.to_dict()  # classes by their paths
    names = _Names(scope)
    model = names.of(without_pretrained(_member_settings(settings, source)))
    content: dict[str, Any] = dict(
        default_scope=scope,
        model=model,
        data_preprocessor=model['data_preprocessor'],  # where mmseg's tools read it
        visualizer=dict(type=visualizer, name='visualizer'),
    )
    loader = settings.get('test_dataloader')
    if loader:
        content['test_pipeline'] = [
            names.of(step, TRANSFORMS)
            for step in loader['dataset']['pipeline']
            if not _ANNOTATIONS.match(step['type'].rpartition('.')[2])
        ]
        content['test_dataloader'] = dict(
            batch_size=1,
            num_workers=0,
            dataset=dict(
                type=dataset,
                metainfo={key: source.meta[key] for key in _META if key in source.meta},
                test_mode=True,
                pipeline=content['test_pipeline'],
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
    if names.imports:
        content['custom_imports'] = dict(imports=sorted(names.imports), allow_failed_imports=False)
    return Config(content), tuple(dict.fromkeys(names.own))


class _Names:
    """Replace class paths by registry names; collect imports and classes of other packages."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.imports: set[str] = set()
        self.own: list[str] = []

    def of(self, value: Any, registry: Any = MODELS) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self.of(one, registry) for one in value)
        if not isinstance(value, Mapping):
            return value
        content = {key: one for key, one in value.items() if key not in _LOSSES}
        kind = registry.get(str(value['type'])) if 'type' in value else None
        content = {key: self.of(one, registry) for key, one in content.items()}
        if kind is None:
            return content
        package = kind.__module__.partition('.')[0]
        stock, dropped = _STOCK.get(kind.__name__, (None, ()))
        if stock is not None:
            content = {key: one for key, one in content.items() if key not in dropped}
            package, name = stock.split('.')
        elif package not in _STOCK_PACKAGES:
            self.own.append(f'{package}.{kind.__name__}')
            self.imports.add(kind.__module__)
            return dict(content, type=f'{kind.__module__}.{kind.__name__}')
        else:
            # mmcv's layers are registered under short names ('BN'), which the config uses.
            name = kind.__name__ if '.' in value['type'] else value['type']
        if package in _FRAMEWORKS and package != self.scope:
            self.imports.add(f'{package}.models')
            name = f'{package}.{name}'
        return dict(content, type=name)


def _member_settings(settings: Mapping[str, Any], source: ExportSource) -> dict[str, Any]:
    """Return the config of the network, with the data preprocessor of its training."""
    model, distiller = settings['model'], source.inspection.distiller
    if distiller is None:
        return {'data_preprocessor': settings.get('data_preprocessor'), **model}
    members, shared = classroom_settings(settings, distiller)
    own = members[source.what]
    return dict(own, data_preprocessor=own.get('data_preprocessor') or shared)
