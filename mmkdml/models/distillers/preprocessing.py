"""Preprocessing that members of a classroom share, and normalization by member."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmkdml.models.distillers.renormalization import (
    PAD_VALUES,
    Renormalization,
    mean_and_std,
    normalization,
    record_sizes,
)

#: Augmentations that commute with normalization, so that a mixed batch can be normalized again.
AFFINE_AUGMENTS = ('Mixup', 'CutMix', 'ResizeMix')
_LISTS = (list, tuple, nn.ModuleList)
# Not settings: attributes of every module, and where its inputs are moved to.
_STATE = {*vars(nn.Module()), '_device', '_non_blocking', '_enable_normalize'}
_NORMALIZATION = ('mean', 'std', 'to_rgb', '_channel_conversion', '_enable_normalize')
_LABELS = ('to_onehot', 'num_classes', 'seg_pad_val')


def shared_settings(
    own: Any, by_member: Mapping[str, Any], frozen: Collection[str], default: Any = None
) -> Any:
    """Choose the preprocessor of a classroom: its own, a trained member's, or a frozen member's."""
    if own:
        return own
    in_order = sorted(by_member, key=lambda name: name in frozen)
    return by_member[in_order[0]] if in_order else default


def default_preprocessor(
    configs: Mapping[str, Any], members: Mapping[str, Any], frozen: Collection[str]
) -> nn.Module:
    """Copy the preprocessor of the first trained member that sets one, without augmentations."""
    by_member = {
        name: member.data_preprocessor
        for name, member in members.items()
        if _sets_preprocessor(configs[name], member)
    }
    first = next(iter(members.values())).data_preprocessor
    shared = copy.deepcopy(shared_settings(None, by_member, frozen, default=first))
    if _augments(shared) is not None:
        _set_augments(shared, None)
    return shared


def share_augments(
    shared: Any, trained: Mapping[str, Any], num_classes: Callable[[nn.Module], int]
) -> nn.Module:
    """Return a preprocessor with the batch augmentations of the classroom or its trained members.

    Args:
        shared: Data preprocessor of the classroom.
        trained: Trained members by name.
        num_classes: Returns the number of classes of a member, for one-hot labels.

    Raises:
        ValueError: If the members' augmentations differ, or the preprocessor supports none.
    """
    augments = {name: _augments(member.data_preprocessor) for name, member in trained.items()}
    augments['the classroom'] = _augments(shared)
    augments = {name: one for name, one in augments.items() if one is not None}
    if len({repr(_comparable(one)) for one in augments.values()}) > 1:
        found = '; '.join(f'{name}: {_describe(one)}' for name, one in augments.items())
        raise ValueError(
            'Invalid batch augmentations: expected the same for all trained members, got '
            f'{found}. Set the same train_cfg.augments, or leave them out'
        )
    wanted = next(iter(augments.values()), None)
    if _comparable(wanted) != _comparable(_augments(shared)):
        if not hasattr(shared, 'batch_augments'):
            raise ValueError(
                f'Invalid data_preprocessor {type(shared).__name__}: expected support of batch '
                f'augmentations, which members have: {_describe(wanted)}. Use '
                'ClsDataPreprocessor, or leave them out'
            )
        shared = copy.deepcopy(shared)
        _set_augments(shared, copy.deepcopy(wanted))
    classes = {num_classes(one) for one in trained.values()}
    if wanted is not None and getattr(shared, 'num_classes', 0) is None and len(classes) == 1:
        shared = copy.deepcopy(shared)
        shared.num_classes = classes.pop()  # mixing needs one-hot labels
    return shared


def build_renormalizations(
    shared: Any, configs: Mapping[str, Any], members: Mapping[str, Any], frozen: Collection[str]
) -> dict[str, Renormalization]:
    """Build the conversion of the shared batch for each member with another normalization.

    If padding must be refilled, ``shared`` gets a hook that records the sizes of the images.

    Args:
        shared: Data preprocessor of the classroom, with its batch augmentations.
        configs: Config or module of each member, by name.
        members: The built members, by name.
        frozen: Names of the frozen members.

    Raises:
        ValueError: If a member's preprocessing differs in settings that must be equal within a
            batch, or batch augmentations do not commute with normalization.
    """
    renormalizations: dict[str, Renormalization] = {}
    for name, member in members.items():
        if not _sets_preprocessor(configs[name], member):
            continue
        own = member.data_preprocessor
        _check_shared_settings(name, shared, own, name in frozen)
        expected, found = _normalizations(name, shared, own)
        if expected == found:
            continue
        unknown = {type(one).__name__ for one in used_augments(shared)} - {*AFFINE_AUGMENTS}
        if unknown:
            raise ValueError(
                f'Invalid normalization of {name}: it differs from the shared one, which is '
                f'supported with {", ".join(AFFINE_AUGMENTS)}, got {", ".join(sorted(unknown))}. '
                'Use the same data_preprocessor for all members'
            )
        renormalizations[name] = Renormalization(shared, own)
        print_log(
            f'{name} has its own normalization: {found}; shared: {expected}', logger='current'
        )
    refills = any(one.refills_padding for one in renormalizations.values())
    if refills and record_sizes not in shared._forward_hooks.values():
        shared.register_forward_hook(record_sizes)
    if len(renormalizations) == len(members):
        print_log(
            'The normalization of the classroom has no effect: '
            f'{", ".join(renormalizations)} have their own. Change it in the members, or remove it '
            'there',
            logger='current',
            level=logging.WARNING,
        )
    return renormalizations


def used_augments(preprocessor: nn.Module) -> list[Any]:
    """Return the batch augmentations of a data preprocessor that are not None."""
    return _listed(_augments(preprocessor))


def normalized_channels(preprocessor: nn.Module) -> int | None:
    """Return the channels of a data preprocessor's mean, None if it is the same for all."""
    channels = len(mean_and_std(preprocessor)[0])
    return channels if channels > 1 else None


def _augments(preprocessor: nn.Module) -> Any:
    return getattr(preprocessor, 'batch_augments', None)


def _set_augments(preprocessor: Any, augments: Any) -> None:
    preprocessor.batch_augments = augments
    if hasattr(preprocessor, 'to_onehot'):
        preprocessor.to_onehot = augments is not None


def _listed(augments: Any) -> list[Any]:
    """Return augmentations as a list, unpacked from mmpretrain's ``RandomBatchAugment``."""
    augments = getattr(augments, 'augments', augments)
    listed = augments if isinstance(augments, _LISTS) else [augments]
    return [one for one in listed if one is not None]


def _normalizations(name: str, *preprocessors: nn.Module) -> list[dict[str, Any]]:
    """Return the normalization of the shared and of a member's preprocessor."""
    channels = [len(mean_and_std(one)[0]) for one in preprocessors]
    try:
        return [normalization(one, max(channels)) for one in preprocessors]
    except RuntimeError as error:
        raise ValueError(
            f'Invalid data_preprocessor of {name}: expected a mean of {channels[0]} channels like '
            f'the shared one, got {channels[1]}'
        ) from error


def _check_shared_settings(name: str, shared: nn.Module, own: nn.Module, frozen: bool) -> None:
    """Check settings that members of one batch must share: size, padding and labels."""
    if type(own) is not type(shared):
        raise ValueError(
            f'Invalid data_preprocessor of {name}: expected {type(shared).__name__}, the type that '
            f'the classroom uses, got {type(own).__name__}. Members share one batch; use the '
            'same type'
        )
    may_differ = {*_NORMALIZATION, *PAD_VALUES, 'batch_augments', 'training'}
    if frozen:  # its labels are not used
        may_differ.update(_LABELS)
    elif _augments(shared) is not None or not (
        getattr(own, 'to_onehot', True) or getattr(shared, 'to_onehot', True)
    ):
        may_differ.update(('to_onehot', 'num_classes'))
    if hasattr(shared, 'size_divisor'):  # mmseg derives pad_size_divisor from it
        may_differ.add('pad_size_divisor')
    for key in vars(shared):
        if key.startswith('_') or key in may_differ:
            continue
        expected, found = (_comparable(vars(one).get(key)) for one in (shared, own))
        if expected != found:
            raise ValueError(
                f'Invalid data_preprocessor of {name}: expected {key}={expected!r}, which the '
                f'classroom uses, got {found!r}. Members share one batch and its labels; use the '
                f'same {key} (mean, std, channel order and padding value may differ)'
            )


def _describe(augments: Any) -> str:
    probs = getattr(augments, 'probs', None)
    text = ', '.join(f'{type(one).__name__}({_comparable(one)[1]})' for one in _listed(augments))
    return text + (f' with probs={probs}' if probs else '')


def _comparable(value: Any) -> Any:
    """Convert settings to plain values that can be compared."""
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, Mapping):
        return {key: _comparable(one) for key, one in value.items()}
    if isinstance(value, _LISTS):
        return [_comparable(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str, type)):
        return value
    if isinstance(value, nn.Module):
        return type(value).__name__, {
            key: _comparable(one)
            for key, one in {**vars(value), **dict(value.named_buffers())}.items()
            if key not in _STATE
        }
    return type(value).__name__, {
        key: _comparable(one) for key, one in getattr(value, '__dict__', {}).items()
    }


def _sets_preprocessor(config_or_module: Any, member: Any) -> bool:
    """Return whether a member has another preprocessor than its framework's default."""
    if not isinstance(config_or_module, nn.Module):
        return bool(config_or_module.get('data_preprocessor'))
    own = member.data_preprocessor
    try:
        return _comparable(own) != _comparable(type(own)())
    except TypeError:  # has required arguments, so it is not a default
        return True
