"""Checks that weights fit a network (keys, shapes, types) and are finite."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: Key of a classroom's weights that records the checkpoint files of its frozen members.
FROZEN_RECORD = 'frozen_members'
_LISTED = 6
# Usual names of parameters and BatchNorm statistics.
_NEVER_INFINITE = re.compile(r'(^|\.)(weight|bias|running_mean|running_var)$')


def select_weights(checkpoint: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """Return the weights of a checkpoint, without the prefix ``module.`` of a model wrapper.

    Raises:
        ValueError: If the checkpoint has no weights; the message names ``source``.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping) or not weights:
        kind = 'an empty dict' if isinstance(weights, Mapping) else type(weights).__name__
        raise ValueError(f'{source} contains no weights: expected a dict of tensors, got {kind}')
    unnamed = [key for key in weights if not isinstance(key, str)]
    if unnamed:
        raise ValueError(
            f'{source} contains no weights: expected names as keys, got {unnamed[0]!r}'
        )
    return {key.removeprefix('module.'): weights[key] for key in weights}


def check_weights(
    network: nn.Module, weights: Mapping[str, Any], source: Any, name: str, advice: str = ''
) -> None:
    """Check that a network can load weights strictly, and that the weights are finite.

    Raises:
        ValueError: If keys, shapes or types do not fit, or a value is invalid; see
            :func:`check_finite`. The message contains ``source`` (the file), ``name`` and, for
            weights that do not fit, ``advice``.
    """
    expected = network.state_dict()
    problems = find_misfits(expected, weights)
    wrong_types = find_wrong_types(expected, weights)
    if wrong_types or (problems and not _converts(network, weights)):
        raise ValueError(
            f'{source} does not fit the {name} ({type(network).__name__}): expected the weights of '
            'this network, got other keys, shapes or types. Use the config and the number of '
            f'classes that it was trained with{listed(problems + wrong_types)}{advice}'
        )
    check_finite(network, weights, f'{source}, to be loaded into the {name},')


def find_misfits(expected: Mapping[str, Any], weights: Mapping[str, Any]) -> list[str]:
    """Return a line per missing or unexpected key and per wrong shape in ``weights``."""
    keys = [key for key in expected if key != FROZEN_RECORD]
    problems = [f'missing: {key}' for key in keys if key not in weights]
    problems += [
        f'unexpected: {key}' for key in weights if key not in expected and key != FROZEN_RECORD
    ]
    return problems + [
        f'{key}: expected shape {tuple(own.shape)}, got {tuple(loaded.shape)}'
        for key, own, loaded in _pairs(expected, weights)
        if isinstance(loaded, Tensor) and own.shape != loaded.shape
    ]


def find_wrong_types(expected: Mapping[str, Any], weights: Mapping[str, Any]) -> list[str]:
    """Return a line per weight that is not a dense tensor or not of the expected kind of number.

    Precision may differ: float16 fits float32, int64 does not.
    """
    problems = []
    record = weights.get(FROZEN_RECORD)
    if record is not None and getattr(record, 'dtype', None) != torch.uint8:
        problems.append(f'{FROZEN_RECORD}: expected a record of files as bytes, got another type')
    for key, own, loaded in _pairs(expected, weights):
        if not isinstance(loaded, Tensor):
            problems.append(f'{key}: expected a tensor, got {type(loaded).__name__}')
        elif loaded.is_meta or loaded.is_quantized or loaded.layout != torch.strided:
            kind = 'a meta tensor' if loaded.is_meta else f'{loaded.layout}'
            problems.append(f'{key}: expected a dense tensor, got {kind}, {loaded.dtype}')
        elif _kind(own) != _kind(loaded):
            problems.append(f'{key}: expected {own.dtype}, got {loaded.dtype}')
    return problems


def _pairs(
    expected: Mapping[str, Any], weights: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor, Any]]:
    for key, value in expected.items():
        if key in weights and key != FROZEN_RECORD and isinstance(value, Tensor):
            yield key, value, weights[key]


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def _converts(network: nn.Module, weights: Mapping[str, Any]) -> bool:
    """Return whether hooks of the network convert these weights, e.g. of an older version."""
    if not all(isinstance(value, Tensor) for value in weights.values()):
        return False
    try:
        copy.deepcopy(network).load_state_dict(dict(weights))
    except RuntimeError:
        return False
    return True


def check_finite(network: nn.Module, weights: Mapping[str, Any], source: Any) -> None:
    """Raise ``ValueError`` if weights that fit a network are NaN or infinite.

    NaN is invalid everywhere. Infinite values are invalid in parameters and in BatchNorm's running
    statistics; other buffers may contain them, such as attention masks filled with ``-inf``.
    """
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    check_values(weights, source, parameters)


def check_values(weights: Any, source: Any, parameters: Collection[str] = ()) -> None:
    """Check values like :func:`check_finite`, recognizing parameters by their usual names, too."""
    problems = find_non_finite(weights, parameters) if isinstance(weights, Mapping) else []
    if problems:
        raise ValueError(
            f'The weights in {source} are invalid: expected finite numbers, got NaN or infinite '
            f'values in {len(problems)} tensors. Use an earlier checkpoint{listed(problems)}'
        )


def find_non_finite(weights: Mapping[str, Any], parameters: Collection[str] = ()) -> list[str]:
    """Return a line per tensor with invalid values; see :func:`check_finite`.

    Args:
        weights: Tensors by key.
        parameters: Keys of parameters, in addition to those recognized by name.
    """
    problems = []
    for key, value in weights.items():
        if not _can_be_nan(value):
            continue
        nan, infinite = int(value.isnan().sum()), 0
        if key in parameters or _NEVER_INFINITE.search(str(key)):
            infinite = int(value.isinf().sum())
        if nan or infinite:
            problems.append(f'{key}: {nan} NaN and {infinite} infinite of {value.numel()} values')
    return problems


def _can_be_nan(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return not value.is_meta and (value.is_floating_point() or value.is_complex())


def listed(problems: list[str]) -> str:
    """Format the first problems and the number of the remaining ones, in parentheses."""
    more = [f'... and {len(problems) - _LISTED} more'] if len(problems) > _LISTED else []
    return f' ({"; ".join((*problems[:_LISTED], *more))})'
