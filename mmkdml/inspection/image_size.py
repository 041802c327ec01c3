"""Size of the images that the data pipelines of a config pass to its networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Size = tuple[int, int]

# Transforms that set the size, and their setting of (width, height).
_RESIZING = {
    'Resize': 'scale',
    'CenterCrop': 'crop_size',
    'EfficientNetCenterCrop': 'crop_size',
    'EfficientNetRandomCrop': 'scale',
    'RandomResizedCrop': 'scale',
    'Pad': 'size',
}
# Transforms after which the size depends on the image.
_DEPENDENT = {'ResizeEdge', 'ResizeShortestEdge', 'ResizeToMultiple', 'RandomResize'}


def data_image_size(config: Mapping[str, Any]) -> Size | None:
    """Find the size of the images that the networks of a config process.

    It is the first that is known of: the crops of a sliding-window test; the size that the test
    pipeline resizes, crops or pads all images to; the size of the training crops, in the
    preprocessor or the training pipeline.

    Args:
        config: Config of a run.

    Returns:
        (H, W), or None if the size depends on the images or the config has no data.
    """
    model = config.get('model') or {}
    test_cfg = model.get('test_cfg') or {}
    preprocessor = model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    return (
        (_size(test_cfg.get('crop_size')) if test_cfg.get('mode') == 'slide' else None)
        or next(filter(None, map(_pipeline_size, _pipelines(config, 'test', 'val'))), None)
        or _size(preprocessor.get('size'))
        or next(filter(None, map(_train_size, _pipelines(config, 'train'))), None)
    )


def _pipelines(config: Mapping[str, Any], *parts: str) -> Iterator[Sequence[Any]]:
    for part in parts:
        dataset = (config.get(f'{part}_dataloader') or {}).get('dataset')
        while isinstance(dataset, Mapping):  # wrappers have a dataset, or a list of them
            if dataset.get('pipeline'):
                yield dataset['pipeline']
            dataset = dataset.get('dataset', (dataset.get('datasets') or [None])[0])


def _pipeline_size(pipeline: Sequence[Any]) -> Size | None:
    """Return the size after the last transform that sets it; None if it depends on the image."""
    size = None
    for transform in pipeline:
        name = _name(transform)
        if name in _DEPENDENT or (name == 'Resize' and transform.get('keep_ratio')):
            size = None
        elif name in _RESIZING:
            wide = _size(transform.get(_RESIZING[name]))
            size = wide and (wide[1], wide[0])
    return size


def _train_size(pipeline: Sequence[Any]) -> Size | None:
    crops = [one for one in pipeline if _name(one) == 'RandomCrop']
    return (_size(crops[-1].get('crop_size')) if crops else None) or _pipeline_size(pipeline)


def _name(transform: Any) -> str:
    kind = transform.get('type') if isinstance(transform, Mapping) else None
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def _size(value: Any) -> Size | None:
    pair = (value, value) if type(value) is int else value
    if not isinstance(pair, Sequence) or len(pair) != 2:
        return None
    first, second = pair
    valid = all(type(number) is int and number > 0 for number in pair)
    return (first, second) if valid else None
