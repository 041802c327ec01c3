"""Names of the modules whose feature maps the compared methods use.

The layers are those of DefangChen/SimKD for classification, and of winycg/CIRKD and EagleMIT/EMKD
for segmentation; those of MGD and PKD are of their own code. Detectors compare all levels of the
feature pyramid, as in the code of FGD, MGD and PKD. CIRKD's maps before the classifier
have stride 8, but those of a U-Net have stride 1, so methods that compare pairs of pixels use an
earlier block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mmkdml.commands import tool_command
from mmkdml.models.heads import UNetHead
from mmkdml.models.necks import ConvBlockNeck
from mmkdml.models.necks.pyramid import pyramid_levels
from mmkdml.models.tasks.base import Task

#: All stages of mmpretrain's and mmseg's ResNets, and of timm's MobileNet v1.
RESNET_STAGES = tuple(f'backbone.layer{stage}' for stage in (1, 2, 3, 4))
MOBILENETV1_STAGES = tuple(f'backbone.timm_model.blocks.{block}' for block in (1, 2, 3, 4))
#: EMKD's low and high layers, at strides 2 (stem) and 8.
RESNET_LOW_AND_HIGH = ('backbone.relu', 'backbone.layer2')
MOBILENETV1_LOW_AND_HIGH = ('backbone.timm_model.blocks.0', 'backbone.timm_model.blocks.2')
#: Decoder of a :class:`UNetHead` from stride 16 to 1, and the three maps of DSD.
UNET_BLOCKS = tuple(f'decode_head.blocks.{block}' for block in range(5))
UNET_DSD = ('decode_head.blocks.2', 'decode_head.blocks.4', 'decode_head.conv_seg')

#: Methods that compare each map with all maps of the other side; the others compare pairs.
ALL_WITH_ALL = ('semckd',)
#: Methods whose loss compares one pair of maps: several pairs need a transfer each.
ONE_PAIR = ('fitnet', 'cwd', 'mgd')

Suggestion = str | list[str]


def suggested_taps(method: str, member: nn.Module, task: Task) -> Suggestion:
    """Return the tap or taps of a member that a method uses.

    Args:
        method: A key of :data:`METHODS` for the task, e.g. ``'at'``.
        member: Network of mmpretrain, mmseg or mmdet. Methods that use several stages support
            ResNets, and timm's networks with maps at strides 2, 4, 8, 16 and 32; methods that use
            the map before the classifier support U-Nets, and mmseg's heads with dropout; detectors
            need the neck of a feature pyramid.
        task: Task of the member.

    Returns:
        Name of a module, or a list of names in the order of the layers, for the ``source_tap`` or
        ``learner_tap`` of a transfer. Methods of :data:`ONE_PAIR` need a transfer for each name.

    Raises:
        ValueError: If the method is unknown or for another task, or does not support the network.
    """
    methods = METHODS[task.name]
    if method in methods:
        return methods[method](member, task)
    tasks = [name for name, known in METHODS.items() if method in known]
    raise ValueError(
        f'method must be one of {", ".join(methods)} for {task.name}, got {method!r}'
        + (f', which is only for {" and ".join(tasks)}' if tasks else '')
        + f'. For other taps use {tool_command("list_taps")} without --method'
    )


def _default(member: nn.Module, task: Task) -> str:
    return task.default_tap(member)


def _stages(member: nn.Module, task: Task) -> list[str]:
    """Return all stages; the last one of the paper's teacher is its additional block."""
    *stages, last = _stem_and_stages(member)[1]
    block = isinstance(getattr(member, 'neck', None), ConvBlockNeck)
    return [*stages, task.default_tap(member) if block else last]


def _last_stage(member: nn.Module, task: Task) -> str:
    return _stem_and_stages(member)[1][-1]


def _first_stage(member: nn.Module, task: Task) -> str:
    return _stem_and_stages(member)[1][0]


def _low_and_high(member: nn.Module, task: Task) -> list[str]:
    stem, stages = _stem_and_stages(member)
    return [stem, stages[1]]


def _before_classifier(member: nn.Module, task: Task) -> str:
    return _decoder_maps(member)[-1]


def _before_classifier_at_stride_8(member: nn.Module, task: Task) -> str:
    return _decoder_maps(member)[-4:][0]


def _middle_last_and_logits(member: nn.Module, task: Task) -> list[str]:
    maps = _decoder_maps(member)
    return [*dict.fromkeys((maps[-3:][0], maps[-1])), 'decode_head.conv_seg']


def _decoder(member: nn.Module, task: Task) -> list[str]:
    return _decoder_maps(member)


def _levels(member: nn.Module, task: Task) -> list[str]:
    levels = pyramid_levels(name for name, _ in member.named_modules())
    if levels:
        return levels
    raise ValueError(
        'Invalid neck: expected one with a feature pyramid, such as FPN, got '
        f'{type(member.neck).__name__ if hasattr(member, "neck") else "no neck"}. Choose taps with '
        f'{tool_command("list_taps")} without --method'
    )


METHODS: dict[str, dict[str, Callable[[nn.Module, Task], Suggestion]]] = {
    'classification': {
        'fitnet': _first_stage,
        'at': _stages,
        'sp': _default,
        'vid': _stages,
        'srrl': _default,
        'simkd': _default,
        'semckd': _stages,
        'mgd': _default,
        'pkd': _default,
    },
    'segmentation': {
        'fitnet': _before_classifier,
        'at': _before_classifier,
        'skd': _before_classifier_at_stride_8,
        'ifvd': _before_classifier,
        'cwd': _before_classifier,
        'dsd': _middle_last_and_logits,
        'emkd': _low_and_high,
        'mgd': _last_stage,
        'pkd': _decoder,
    },
    'detection': dict.fromkeys(('fgd', 'pkd', 'cwd', 'mgd', 'fitnet'), _levels),
}


def _stem_and_stages(member: nn.Module) -> tuple[str, list[str]]:
    backbone: Any = getattr(member, 'backbone', None)
    if hasattr(backbone, 'res_layers'):
        stem = 'backbone.stem' if getattr(backbone, 'deep_stem', False) else 'backbone.relu'
        return stem, [f'backbone.{name}' for name in backbone.res_layers]
    path = 'model' if backbone is None else 'backbone.timm_model'  # of TimmClassifier
    network: Any = getattr(member if backbone is None else backbone, path.split('.')[-1], None)
    maps = list(getattr(network, 'feature_info', ()))
    if [info['reduction'] for info in maps] == [2, 4, 8, 16, 32]:
        stem, *stages = (f'{path}.{info["module"]}' for info in maps)
        return stem, stages
    raise ValueError(
        'Invalid backbone: expected a ResNet, or a timm network with maps at strides 2, 4, 8, 16 '
        f'and 32, got {type(backbone or network).__name__}. Choose taps with '
        f'{tool_command("list_taps")} without --method'
    )


def _decoder_maps(member: nn.Module) -> list[str]:
    """Return the blocks of a U-Net, or the dropout before the classifier of another head."""
    head: Any = member.decode_head
    if isinstance(head, UNetHead):
        return [f'decode_head.blocks.{block}' for block in range(len(head.blocks))]
    if getattr(head, 'dropout', None) is not None:
        return ['decode_head.dropout']
    raise ValueError(
        'Invalid head: expected UNetHead, or a head with dropout_ratio > 0, got '
        f'{type(head).__name__}. Choose taps with {tool_command("list_taps")} without --method'
    )
