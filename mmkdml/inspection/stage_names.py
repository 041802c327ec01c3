"""Readable names of layers, such as ``stage 2 (128 ch, 1/8)``, for any network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby

from mmkdml.inspection.taps_listing import TapRow
from mmkdml.models.necks.pyramid import pyramid_levels

STEM, STAGE, BLOCK = 'stem', 'stage', 'block'
NECK, LEVEL, DECODER, LOGITS = 'neck', 'level', 'decoder', 'logits'
_BOX_HEAD = 'bbox_head'
_BACKBONE, _TIMM_MODEL = 'backbone', 'model'  # TimmClassifier has backbone and head in one
_STEM_STRIDE = 4  # maps with smaller strides belong to the stem


def stage_of_layers(rows: Sequence[TapRow], input_size: Sequence[int]) -> dict[str, str]:
    """Assign each tappable layer to a stage of its network, by position and stride.

    A stage is an outermost module whose children all have maps of one size, for example
    ``backbone.layer2``, ``backbone.timm_model.blocks.3`` or ``decode_head.blocks.0``. Consecutive
    such modules of a backbone with outputs of one shape, and single layers if there are no others
    (VGG), form one stage. Stages are numbered from 1, in the order in which they run. Maps of a
    backbone that are larger than 1/4 of the image belong to the stem.

    Args:
        rows: Layers of the network, from :func:`~mmkdml.inspection.taps_listing.tap_rows`.
        input_size: (H, W) of the image.

    Returns:
        Name of the stage by name of the layer: ``'stem'``, ``'stage 2'`` (``'block 2'`` if the
        blocks have no maps), ``'neck'`` (``'level 2'`` of a feature pyramid, finest first),
        ``'decoder 1'`` or ``'logits'``. Layers between stages, such as a pooling, and those of a
        detector's head are missing.
    """
    shapes = {
        row.name: shape
        for row in rows
        if 'Pool' not in row.module and (shape := _shape(row)) is not None
    }
    # timm calls the list of a transformer's blocks as one module.
    lists = {row.name for row in rows if row.module == 'Sequential' and len(row.shape or ()) == 3}
    stages: dict[str, str] = {}
    for part, names in _by_part(shapes).items():
        units = _units(part, names, shapes, lists)
        if part in (_BACKBONE, _TIMM_MODEL):
            named = _backbone_stages(units, shapes, input_size)
            last = next(reversed(units), None)
            if part == _TIMM_MODEL and last is not None and len(shapes[last]) == 2:
                named[last] = LOGITS
        elif part == NECK:
            levels = pyramid_levels(units)
            named = {unit: f'{LEVEL} {index}' for index, unit in enumerate(levels, 1)}
            named = named or dict.fromkeys(units, NECK)
        elif part == _BOX_HEAD:  # its layers run once per level, so that none has the logits
            named = {}
        elif units:  # the last layer of a head computes the logits
            *inner, last = units
            blocks = [unit for unit in inner if len(units[unit]) > 1]
            named = {unit: f'{DECODER} {index}' for index, unit in enumerate(blocks, 1)}
            named[last] = LOGITS
        else:
            named = {}
        stages |= {name: named[unit] for unit in named for name in units[unit]}
    return stages


def outputs_of_stages(rows: Sequence[TapRow], input_size: Sequence[int]) -> list[str]:
    """Return the layer with the output of each stage, in the order in which they run."""
    stages = stage_of_layers(rows, input_size)
    return list({stages[row.name]: row.name for row in rows if row.name in stages}.values())


def stage_labels(
    rows: Sequence[TapRow], layers: Iterable[str], input_size: Sequence[int]
) -> dict[str, str]:
    """Return unique labels of layers for a figure, such as ``stage 2 (128 ch, 1/8)``.

    A layer that is not the output of its stage is named within it: ``stage 2: 0.conv1 (...)``. A
    layer outside of all stages keeps its name.

    Args:
        rows: All layers of the network, from :func:`~mmkdml.inspection.taps_listing.tap_rows`.
        layers: Names of the layers to label.
        input_size: (H, W) of the image.
    """
    stages = stage_of_layers(rows, input_size)
    outputs = set(outputs_of_stages(rows, input_size))
    shapes = {row.name: _shape(row) for row in rows}
    labels = {}
    for layer in layers:
        stage = stages.get(layer)
        if stage is None:
            label = layer
        elif layer in outputs:
            label = stage
        else:
            label = f'{stage}: {_inner_name(layer, stages)}'
        labels[layer] = label if stage == LOGITS else f'{label}{_size(shapes[layer], input_size)}'
    return labels


def _shape(row: TapRow) -> tuple[int, ...] | None:
    """Return the shape of an output, that of a channels-last map as a map."""
    return row.map_shape if row.shape is not None and len(row.shape) == 4 else row.shape


def _by_part(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in shapes:
        part, _, rest = name.partition('.')
        if rest:
            parts.setdefault(part, []).append(name)
    return parts


def _units(
    part: str, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], lists: Collection[str]
) -> dict[str, list[str]]:
    """Split the layers of a part of the network into outermost modules with one map size."""
    units: dict[str, list[str]] = {}

    def descend(parent: str, below: Sequence[str]) -> None:
        depth = parent.count('.') + 2
        children: dict[str, list[str]] = {}
        for name in below:
            if name != parent:
                children.setdefault('.'.join(name.split('.')[:depth]), []).append(name)
        sizes = {shapes[child][2:] if child in shapes else None for child in children}
        unit = parent != part and parent in shapes and parent not in lists
        if unit and len(sizes) <= 1 and None not in sizes:
            units[parent] = list(below)
            return
        for child, inner in children.items():
            descend(child, inner)

    descend(part, names)
    return units


def _backbone_stages(
    units: Mapping[str, list[str]], shapes: Mapping[str, tuple[int, ...]], input_size: Sequence[int]
) -> dict[str, str]:
    order = {name: index for index, name in enumerate(shapes)}
    units = dict(sorted(units.items(), key=lambda unit: order[unit[0]]))
    blocks = {unit for unit, names in units.items() if len(names) > 1}
    if blocks and all(len(shapes[unit]) != 4 for unit in blocks):  # a transformer of one scale
        ordered = [unit for unit in units if unit in blocks]
        return {unit: f'{BLOCK} {index}' for index, unit in enumerate(ordered, 1)}
    stem = [
        unit
        for unit in units
        if len(shapes[unit]) == 4 and shapes[unit][2] * _STEM_STRIDE > input_size[0]
    ]
    rest = [unit for unit in units if unit not in stem and (unit in blocks or not blocks)]
    named = dict.fromkeys(stem, STEM)
    for index, (_, equal) in enumerate(groupby(rest, key=lambda unit: shapes[unit]), 1):
        named |= dict.fromkeys(equal, f'{STAGE} {index}')
    return named


def _inner_name(layer: str, stages: Mapping[str, str]) -> str:
    """Return the name of a layer within its stage."""
    parts = layer.split('.')
    own = [name for name, stage in stages.items() if stage == stages[layer]]
    if len(own) == 1:
        return parts[-1]
    common = 0
    while all(len(name.split('.')) > common and name.split('.')[common] == parts[common]
              for name in own) and common < len(parts) - 1:  # fmt: skip
        common += 1
    return '.'.join(parts[common:])


def _size(shape: tuple[int, ...] | None, input_size: Sequence[int]) -> str:
    """Format channels and stride: the power of 2 with which the size was rounded up, if any."""
    if shape is None:
        return ''
    if len(shape) != 4:
        return f' ({shape[-1]} ch)'
    height, size = shape[2], input_size[0]
    powers = (2**power for power in range(11) if height > 1 and -(-size // 2**power) == height)
    stride = next(powers, round(size / height))
    return f' ({shape[1]} ch, 1/{stride})' if stride > 1 else f' ({shape[1]} ch)'
