"""Which feature maps each of the compared methods takes, by the names of their modules.

The layers are those of DefangChen/SimKD for classification, of winycg/CIRKD and EagleMIT/EMKD for
segmentation. CIRKD's maps before the classifier have a stride of 8; a U-Net's have its image's
size, so a method that compares pairs of pixels takes an earlier block's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mmkdml.models.heads import UNetHead
from mmkdml.models.necks import ConvBlockNeck
from mmkdml.models.tasks.base import Task

#: The outputs of all stages, of mmpretrain's and mmseg's ResNets and of timm's MobileNet v1.
RESNET_STAGES = tuple(f'backbone.layer{stage}' for stage in (1, 2, 3, 4))
MOBILENETV1_STAGES = tuple(f'backbone.timm_model.blocks.{block}' for block in (1, 2, 3, 4))
#: EMKD's low and high layers: behind the stem at a stride of 2, and at a stride of 8.
RESNET_LOW_AND_HIGH = ('backbone.relu', 'backbone.layer2')
MOBILENETV1_LOW_AND_HIGH = ('backbone.timm_model.blocks.0', 'backbone.timm_model.blocks.2')
#: A :class:`UNetHead`'s decoder from a stride of 16 to 1, and DSD's three maps.
UNET_BLOCKS = tuple(f'decode_head.blocks.{block}' for block in range(5))
UNET_DSD = ('decode_head.blocks.2', 'decode_head.blocks.4', 'decode_head.conv_seg')

#: Methods that compare each map with all of the other side; the others compare them in pairs.
ALL_WITH_ALL = ('semckd',)

Suggestion = str | list[str]


def suggested_taps(method: str, member: nn.Module, task: Task) -> Suggestion:
    """The tap or taps of one member that a method compares.

    Args:
        method: A key of :data:`METHODS` for the task, e.g. ``'at'``.
        member: Of mmpretrain or mmseg. Methods that take several stages know ResNets, and timm's
            networks with maps at strides 2, 4, 8, 16 and 32; those that take the map before the
            classifier know U-Nets, and mmseg's heads with dropout.
        task: The member's.

    Returns:
        The name of a module, or a list of names in the order of the layers, as a transfer's
        ``source_tap`` or ``learner_tap`` takes them.

    Raises:
        ValueError: If the method is unknown or for the other task, or the network is none of these.
    """
    methods = METHODS[task.name]
    if method in methods:
        return methods[method](member, task)
    tasks = [name for name, known in METHODS.items() if method in known]
    raise ValueError(
        f'{method!r} '
        + (f'is a method for {tasks[0]} alone' if tasks else 'is no method that has taps')
        + f'; those for {task.name} are {", ".join(methods)}. Other taps: tools/list_taps.py '
        'without --method'
    )


def _default(member: nn.Module, task: Task) -> str:
    return task.default_tap(member)


def _stages(member: nn.Module, task: Task) -> list[str]:
    """All stages; a teacher's last one ends with the paper's additional block."""
    *stages, last = _stem_and_stages(member)[1]
    block = isinstance(getattr(member, 'neck', None), ConvBlockNeck)
    return [*stages, task.default_tap(member) if block else last]


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


METHODS: dict[str, dict[str, Callable[[nn.Module, Task], Suggestion]]] = {
    'classification': {
        'fitnet': _first_stage,
        'at': _stages,
        'sp': _default,
        'vid': _stages,
        'srrl': _default,
        'simkd': _default,
        'semckd': _stages,
    },
    'segmentation': {
        'fitnet': _before_classifier,
        'at': _before_classifier,
        'skd': _before_classifier_at_stride_8,
        'ifvd': _before_classifier,
        'cwd': _before_classifier,
        'dsd': _middle_last_and_logits,
        'emkd': _low_and_high,
    },
}


def _stem_and_stages(member: nn.Module) -> tuple[str, list[str]]:
    backbone: Any = member.backbone
    if hasattr(backbone, 'res_layers'):
        stem = 'backbone.stem' if getattr(backbone, 'deep_stem', False) else 'backbone.relu'
        return stem, [f'backbone.{name}' for name in backbone.res_layers]
    maps = list(getattr(getattr(backbone, 'timm_model', None), 'feature_info', ()))
    if [info['reduction'] for info in maps] == [2, 4, 8, 16, 32]:
        stem, *stages = (f'backbone.timm_model.{info["module"]}' for info in maps)
        return stem, stages
    raise ValueError(
        f'There is no list of stages for the backbone {type(backbone).__name__}; there is for '
        "ResNets, and for timm's networks with maps at strides 2, 4, 8, 16 and 32. Choose from all "
        'modules: tools/list_taps.py without --method'
    )


def _decoder_maps(member: nn.Module) -> list[str]:
    """Of a U-Net the blocks; of another head the classifier's input, which has no other name."""
    head: Any = member.decode_head
    if isinstance(head, UNetHead):
        return [f'decode_head.blocks.{block}' for block in range(len(head.blocks))]
    if getattr(head, 'dropout', None) is not None:
        return ['decode_head.dropout']
    raise ValueError(
        f'No module of the head {type(head).__name__} is known to give the map before its '
        'classifier; UNetHead has one, and heads with dropout_ratio > 0. Choose from all modules: '
        'tools/list_taps.py without --method'
    )
