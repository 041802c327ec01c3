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
    """Copy the data preprocessor of a member for a classroom that has none."""
    by_member = {
        name: member.data_preprocessor
        for name, member in members.items()
        if _has_preprocessor(configs[name], member)
    }
    first = next(iter(members.values())).data_preprocessor
    return copy.deepcopy(shared_settings(None, by_member, frozen, default=first))


def share_preprocessing(
    shared: Any,
    is_own: bool,
    configs: Mapping[str, Any],
    members: Mapping[str, Any],
    frozen: Collection[str],
    num_classes: Callable[[nn.Module], int],
) -> tuple[nn.Module, dict[str, Renormalization]]:
    """Check the preprocessing of members against the shared one.

    Args:
        shared: Data preprocessor of the classroom.
        is_own: True if it is the classroom's own, False if it is a copy of a member's.
        configs: Config or module of each member, by name.
        members: The built members, by name.
        frozen: Names of the frozen members.
        num_classes: Number of classes of a member, for one-hot labels.

    Returns:
        The shared preprocessor with the batch augmentations of the trained members, and the
        renormalization of the shared batch by name of each member that needs one.

    Raises:
        ValueError: If batch augmentations contradict each other, or a member's preprocessing
            differs in settings that must be equal within a batch.
    """
    trained = {name: member for name, member in members.items() if name not in frozen}
    augments = {name: _augments(member.data_preprocessor) for name, member in trained.items()}
    if is_own:
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
        shared = _with_augments(shared, wanted)
    classes = {num_classes(one) for one in trained.values()}
    if wanted is not None and getattr(shared, 'num_classes', 0) is None and len(classes) == 1:
        shared = copy.deepcopy(shared)
        shared.num_classes = classes.pop()  # mixing needs one-hot labels
    own: dict[str, Renormalization] = {}
    for name, member in members.items():
        if not _has_preprocessor(configs[name], member):
            continue
        preprocessor = member.data_preprocessor
        _check_common(name, shared, preprocessor, name in frozen, wanted is not None)
        channels = max(len(mean_and_std(one)[0]) for one in (shared, preprocessor))
        try:
            settings = [normalization(one, channels) for one in (shared, preprocessor)]
        except RuntimeError as error:
            raise ValueError(
                f'Invalid data_preprocessor of {name}: expected a mean of '
                f'{len(mean_and_std(shared)[0])} channels like the shared one, got '
                f'{len(mean_and_std(preprocessor)[0])}'
            ) from error
        if settings[0] == settings[1]:
            continue
        unknown = {type(one).__name__ for one in used_augments(shared)} - {*AFFINE_AUGMENTS}
        if unknown:
            raise ValueError(
                f'Invalid normalization of {name}: it differs from the shared one, which is '
                f'supported with {", ".join(AFFINE_AUGMENTS)}, got {", ".join(sorted(unknown))}. '
                'Use the same data_preprocessor for all members'
            )
        own[name] = Renormalization(shared, preprocessor)
        if own[name].refills_padding and record_sizes not in shared._forward_hooks.values():
            shared.register_forward_hook(record_sizes)
        print_log(
            f'{name} has its own normalization: {settings[1]}; shared: {settings[0]}',
            logger='current',
        )
    if is_own and len(own) == len(members):
        print_log(
            f'The normalization of the classroom has no effect: {", ".join(own)} have their own. '
            'Change it in the members, or remove it there',
            logger='current',
            level=logging.WARNING,
        )
    return shared, own


def used_augments(preprocessor: nn.Module) -> list[Any]:
    """Return the batch augmentations of a data preprocessor that are not None."""
    augments = _augments(preprocessor)
    augments = getattr(augments, 'augments', augments)
    listed = augments if isinstance(augments, (list, tuple)) else [augments]
    return [one for one in listed if one is not None]


def _augments(preprocessor: nn.Module) -> Any:
    return getattr(preprocessor, 'batch_augments', None)


def _with_augments(shared: Any, augments: Any) -> nn.Module:
    """Copy a preprocessor with other batch augmentations and the one-hot labels they need."""
    if not hasattr(shared, 'batch_augments'):
        raise ValueError(
            f'Invalid data_preprocessor {type(shared).__name__}: expected support of batch '
            f'augmentations, which members have: {_describe(augments)}. Use ClsDataPreprocessor, '
            'or leave them out'
        )
    shared = copy.deepcopy(shared)
    shared.batch_augments = copy.deepcopy(augments)
    if hasattr(shared, 'to_onehot'):
        shared.to_onehot = augments is not None
    return shared


def _check_common(
    name: str, shared: nn.Module, own: nn.Module, frozen: bool, augmented: bool
) -> None:
    """Check settings that members of one batch must share: size, padding and labels."""
    if type(own) is not type(shared):
        raise ValueError(
            f'Invalid data_preprocessor of {name}: expected {type(shared).__name__}, the type that '
            f'the classroom uses, got {type(own).__name__}. Members share one batch; use the '
            'same type'
        )
    free = {*_NORMALIZATION, *PAD_VALUES, 'batch_augments'}
    if frozen:  # its labels are not used
        free.update(_LABELS)
    elif augmented or not (getattr(own, 'to_onehot', True) or getattr(shared, 'to_onehot', True)):
        free.update(('to_onehot', 'num_classes'))
    if hasattr(shared, 'size_divisor'):  # mmseg derives pad_size_divisor from it
        free.add('pad_size_divisor')
    expected, found = (_settings(preprocessor, free) for preprocessor in (shared, own))
    for key, value in expected.items():
        if found.get(key) != value:
            raise ValueError(
                f'Invalid data_preprocessor of {name}: expected {key}={value!r}, which the '
                f'classroom uses, got {found.get(key)!r}. Members share one batch and its '
                f'labels; use the same {key} (mean, std, channel order and padding value '
                'may differ)'
            )


def _settings(preprocessor: nn.Module, left_out: Collection[str]) -> dict[str, Any]:
    return {
        key: _comparable(value)
        for key, value in vars(preprocessor).items()
        if not key.startswith('_') and key not in (*left_out, 'training')
    }


def _describe(augments: Any) -> str:
    listed = getattr(augments, 'augments', augments)
    probs = getattr(augments, 'probs', None)
    listed = listed if isinstance(listed, (list, tuple)) else [listed]
    text = ', '.join(f'{type(one).__name__}({_comparable(one)[1]})' for one in listed if one)
    return text + (f' with probs={probs}' if probs else '')


def _comparable(value: Any) -> Any:
    """Convert settings to plain values that can be compared."""
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, Mapping):
        return {key: _comparable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str, type)):
        return value
    if isinstance(value, nn.Module):
        own = {**vars(value), **dict(value.named_buffers())}
        return type(value).__name__, {
            key: _comparable(one)
            for key, one in own.items()
            if not key.startswith('_') and key != 'training'
        } | {key: own[key] for key in ('_channel_conversion',) if key in own}
    return type(value).__name__, {
        key: _comparable(one) for key, one in getattr(value, '__dict__', {}).items()
    }


def _has_preprocessor(config_or_module: Any, member: Any) -> bool:
    """Return whether a member has another preprocessor than its framework's default."""
    if isinstance(config_or_module, nn.Module):
        own = member.data_preprocessor
        try:
            return _comparable(own) != _comparable(type(own)())
        except TypeError:  # has required arguments, so it is not a default
            return True
    return bool(config_or_module.get('data_preprocessor'))
