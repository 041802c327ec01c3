"""Complete configs for volumes from the manifest of their split files."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Mapping
from typing import Any

from mmkdml.names import SPLITS

_DATASET = 'VolumeSliceDataset'
_LOADER, _NORMALIZATION = 'LoadVolumeSlice', 'NormalizeVolume'
# Sizes of images are rounded up to a multiple of it.
_DIVISOR = 16


def complete_volumes(config: Any) -> None:
    """Fill in the open settings of a config for volumes, so that prediction does not need the data.

    These are, from the manifest next to the split files: ``axis`` and ``orientation`` of
    ``LoadVolumeSlice``, ``channels`` of ``NormalizeVolume``, and where they are None ``scale`` of
    ``Resize``, ``input_size`` of the model, ``num_classes`` of its heads and ``in_channels`` of its
    backbones. Without a manifest, or another data set, nothing is set. Call it again after
    ``ann_file`` has changed.

    Args:
        config: The config; modified.

    Raises:
        ValueError: If the data sets differ in their classes, channels or context.
    """
    found = [
        (part, dataset)
        for part in SPLITS
        for dataset in _datasets((config.get(f'{part}_dataloader') or {}).get('dataset'))
    ]
    if not found:
        return
    from mmkdml.datasets.splits.manifest import read_manifest
    from mmkdml.datasets.volumes.intensity import manifest_intensity

    plans: dict[str, tuple[Any, ...]] = {}
    for part, dataset in found:
        ann_file = str(dataset.get('ann_file') or '')
        manifest = read_manifest(osp.dirname(ann_file))
        if 'slice_size' not in manifest:
            continue
        height, width = (-(-side // _DIVISOR) * _DIVISOR for side in manifest['slice_size'])
        context = 0
        for step in _steps(dataset.get('pipeline')):
            name = _name(step)
            if name == _LOADER:
                context = step.get('context') or 0
                step['axis'] = manifest['axis']
                if orientation := manifest.get('orientation'):
                    step['orientation'] = orientation
            elif name == _NORMALIZATION and _is_open(step.get('channels'), manifest):
                step['channels'] = manifest_intensity(ann_file)
            elif name == 'Resize' and 'scale' in step and step['scale'] is None:
                step['scale'] = (width, height)
        channels = (2 * context + 1) * len(manifest['channel_names'])
        plans[part] = (len(manifest['classes']), channels, (height, width))
    if len({plan[:2] for plan in plans.values()}) > 1:
        raise ValueError(
            'Invalid data sets: expected the same number of classes and channels, got '
            + ', '.join(f'{plan[0]} and {plan[1]} in {part}' for part, plan in plans.items())
            + '. Correct ann_file, or context of LoadVolumeSlice'
        )
    if plans:
        classes, channels, size = next(iter(plans.values()))
        _set_open(
            config.get('model'), dict(num_classes=classes, in_channels=channels, input_size=size)
        )


def _is_open(channels: Any, manifest: Mapping[str, Any]) -> bool:
    """Return whether channels are not set, or were set from a manifest, e.g. for another fold."""
    return not channels or channels in (manifest['intensity'], *manifest['intensity'])


def _set_open(value: Any, numbers: Mapping[str, Any]) -> None:
    """Set the keys of a nested config that are None."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if one is None and key in numbers:
                value[key] = numbers[key]  # type: ignore[index]
            else:
                _set_open(one, numbers)
    elif isinstance(value, list | tuple):
        for one in value:
            _set_open(one, numbers)


def _datasets(settings: Any) -> Iterator[Any]:
    """Yield the data sets of volumes inside wrappers."""
    if not isinstance(settings, Mapping):
        return
    if _name(settings) == _DATASET:
        yield settings
    for inner in (settings.get('dataset'), *(settings.get('datasets') or ())):
        yield from _datasets(inner)


def _steps(pipeline: Any) -> Iterator[Any]:
    """Yield the settings of the transforms, at any depth."""
    for step in pipeline or ():
        if isinstance(step, Mapping):
            yield step
            yield from _steps(step.get('transforms'))
        elif isinstance(step, list | tuple):
            yield from _steps(step)


def _name(settings: Mapping[str, Any]) -> str:
    kind = settings.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
