"""Apply a user's options to a config, and reject those without effect."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry, root
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
    set_random_seed,
)
from torch.distributed import init_process_group
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from mmkdml.engine.checks.split_overlap import SETTING as SPLIT_OVERLAP
from mmkdml.inspection.config import only_errors
from mmkdml.names import SPLITS

_DELETE = '_delete_'
_MOST_COPIES = 6
_OPTIM_WRAPPER = ('constructor', 'paramwise_cfg', 'optimizer')
# Read by mmengine's Runner and our tools from the top level of a config.
_TOP_LEVEL: tuple[Any, ...] = (
    Runner,
    SPLIT_OVERLAP,
    *('activation_checkpointing', 'compile', 'default_scope', 'efficient_conv_bn_eval'),
    *('find_unused_parameters', 'model_wrapper_cfg', 'sync_bn'),
    *('test_pipeline', 'tta_model', 'tta_pipeline', 'visualizer'),
)
# Readers of dicts without a ``type``: callables, whose parameters are the keys, and further keys.
_READERS: dict[str, tuple[Any, ...]] = {
    '': _TOP_LEVEL,
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'env_cfg.dist_cfg': (init_dist, init_process_group),
    'env_cfg.mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'log_processor': (LogProcessor,),
    'optim_wrapper': (OptimWrapper, *_OPTIM_WRAPPER),
    'optim_wrapper.clip_grad': (clip_grad_norm_, clip_grad_value_, 'type'),
    'optim_wrapper.paramwise_cfg': (
        *('bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult'),
        *('dcn_offset_lr_mult', 'flat_decay_mult', 'bypass_duplicate', 'custom_keys'),
    ),
    'randomness': (set_random_seed,),
    'train_cfg': (EpochBasedTrainLoop, IterBasedTrainLoop, 'by_epoch'),
    'val_cfg': (ValLoop,),
    'test_cfg': (TestLoop,),
    **{f'{part}_dataloader': (DataLoader, 'num_batch_per_epoch') for part in SPLITS},
}
# Keys that are removed from a dict with a ``type`` before its class is built.
_TAKEN_OUT = {
    'custom_hooks': ('priority',),
    'default_hooks': ('priority',),
    'optim_wrapper': _OPTIM_WRAPPER,
    'param_scheduler': ('convert_to_iter_based',),
}
_OF_EVERY_TYPE = ('type', '_scope_')
# Dicts that are built from their type; options cannot create them without one.
_TYPED = re.compile(
    r'model|param_scheduler|visualizer|optim_wrapper\.optimizer|(default|custom)_hooks\.\w+'
    r'|(train|val|test)_(evaluator|dataloader\.(dataset|sampler))'
)
_SIMILAR = 0.75  # of names, where any name is accepted


def merge_options(config: Config, options: Mapping[str, Any]) -> None:
    """Change settings of a config in place.

    Args:
        config: Config to change.
        options: Values by dotted key, such as ``train_cfg.max_epochs``. A number in a key is the
            index of a list item.

    Raises:
        ValueError: If a key is malformed, leads through a value that is not a dict or list, has an
            index out of range, contradicts another key, or is unknown where only known keys have
            an effect: at the top level, or in a dict whose ``type`` has no such parameter.
    """
    changes = _nested(options)
    _check(changes, dict(config.items()), '', config.get('default_scope'))
    plain, read = config.to_dict(), _parameters(_TOP_LEVEL)[0]
    for key in sorted(set(changes) - read):
        copies = list(_copies(plain[key], plain))[:_MOST_COPIES]
        raise ValueError(
            f'Invalid option {key}: it is a variable of the config file, and settings that were '
            'copied from it would not change. Change '
            + (f'the settings, such as {" ".join(copies)}' if copies else 'the config file')
        )
    config.merge_from_dict(dict(options))


def _copies(variable: Any, settings: Any, path: str = '') -> Iterator[str]:
    """Yield the dotted keys of settings that are equal to a variable of the config file."""
    items = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
    for key, value in items:
        here = f'{path}.{key}' if path else str(key)
        if not path and key not in _parameters(_TOP_LEVEL)[0]:
            continue
        if type(value) is type(variable) and value == variable:
            yield here
        elif isinstance(value, Mapping | list):
            yield from _copies(variable, value, here)


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested dicts."""
    tree: dict[str, Any] = {}
    for dotted, value in options.items():
        parts = dotted.split('.')
        if not all(part.strip() == part != '' for part in parts):
            raise ValueError(
                f'Invalid option {dotted!r}: expected a key such as train_cfg.max_epochs, got an '
                'empty part or a space'
            )
        node = tree
        for number, part in enumerate(parts[:-1], start=1):
            if (parent := '.'.join(parts[:number])) in options:
                raise ValueError(
                    f'Invalid options {parent} and {dotted}: the first one includes the second. '
                    'Pass only one of them'
                )
            node = node.setdefault(part, {})
        node[parts[-1]] = value
    return tree


def _check(changes: Mapping[str, Any], known: Any, path: str, scope: str | None) -> None:
    """Check the changes of a dict or list against its current content."""
    if isinstance(changes, Mapping) and changes.get(_DELETE):
        known = {}
    if not isinstance(known, (Mapping, list)):
        raise ValueError(
            f'Invalid option {path}.{next(iter(changes), "")}: expected {path} to be a dict or a '
            f'list, got {known!r}. Set {path} as a whole'
        )
    if changes and not known and _TYPED.fullmatch(path) and 'type' not in changes:
        raise ValueError(
            f'Invalid option {path}.{next(iter(changes))}: expected a type of {path}, which the '
            f'config does not have. Set {path}.type, too'
        )
    for key, value in changes.items():
        here = f'{path}.{key}' if path else key
        if isinstance(known, list):
            if not key.isdigit() or int(key) >= len(known) or not isinstance(value, Mapping):
                raise ValueError(
                    f'Invalid option {here}: expected an index from 0 to {len(known) - 1} and a '
                    f'key of that item, because {path} is a list of {len(known)}. Set {path} as a '
                    'whole to change its length or an item'
                )
            _check(value, known[int(key)], here, scope)
            continue
        if key not in known and key != _DELETE:
            _check_new_key(key, {**known, **changes}, known, path, scope)
        if isinstance(value, Mapping):
            _check(value, known.get(key, {}), here, scope)


def _check_new_key(
    key: str, settings: Mapping[str, Any], known: Mapping[str, Any], path: str, scope: str | None
) -> None:
    readers = _readers(settings, path, scope)
    parameters, is_open = _parameters(readers)
    if key in parameters:
        return
    names = sorted((parameters | set(known)) - {_DELETE, '_scope_'})
    near = get_close_matches(key, names, cutoff=_SIMILAR if is_open else 0.6)
    if is_open and not near:
        return
    owners = ' or '.join(one.__name__ for one in readers if callable(one) and one is not Runner)
    raise ValueError(
        f'Unknown option {path}{"." if path else ""}{key}: expected a key of '
        + (f'{path} ({owners})' if owners else path or 'the config')
        + (f', which has {", ".join(names)}' if len(names) < 20 else f', got {key!r}')
        + '.'
        + (f' Did you mean {" or ".join(near)}?' if near else '')
        + (f' Otherwise set {path} as a whole' if is_open else '')
    )


def _readers(settings: Mapping[str, Any], path: str, scope: str | None) -> tuple[Any, ...]:
    """Return the callables and keys that read a dict; empty if they are unknown."""
    if path == 'optim_wrapper' and settings.get('constructor') is not None:
        return ()  # a custom constructor may read any key
    if not path or 'type' not in settings:
        return _READERS.get(path, ())
    if path.endswith('_cfg') and path not in _READERS:
        return ()  # builders of layers and initializers remove keys before
    kind = settings['type']
    kinds = _registered(kind, scope) if isinstance(kind, str) else [kind]
    place = re.sub(r'(?<=^default_hooks)\.\w+$|\.\d+$', '', path)  # without name or index
    if re.search(r'[._]schedules?(\.|$)', path):  # of transfer weights
        place = 'param_scheduler'
    taken_out = _TAKEN_OUT.get(place, ())
    return (*kinds, *taken_out, *_OF_EVERY_TYPE) if kinds else ()


def _parameters(readers: tuple[Any, ...]) -> tuple[set[str], bool]:
    """Return the names of all known parameters, and whether there may be others."""
    names: set[str] = set()
    is_open = not readers
    for reader in readers:
        if isinstance(reader, str):
            names.add(reader)
            continue
        functions = _functions(reader)
        for function in functions:
            try:
                parameters = inspect.signature(function).parameters.values()
            except (TypeError, ValueError):  # a C function
                is_open = True
                break
            variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            names |= {one.name for one in parameters if one.kind not in variadic} - {'self'}
            if not any(one.kind is one.VAR_KEYWORD for one in parameters):
                break
        else:
            is_open = is_open or bool(functions)
    return names, is_open


def _functions(reader: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return a function, or the ``__init__`` of a class and of the classes it passes keys on to."""
    if not isinstance(reader, type):
        return [reader]
    return [vars(kind)['__init__'] for kind in reader.mro()[:-1] if '__init__' in vars(kind)]


def _registered(name: str, scope: str | None) -> list[Callable[..., Any]]:
    """Return the classes and functions that are registered under a name, in any registry."""
    names = [name] if '.' in name or not scope else [f'{scope}.{name}', name]
    found: list[Callable[..., Any]] = []
    with warnings.catch_warnings(), only_errors():
        warnings.simplefilter('ignore')
        for registry in [one for one in vars(root).values() if isinstance(one, Registry)]:
            for one in names:
                try:
                    kind = registry.get(one)
                except Exception:  # raised again when it is built
                    kind = None
                if kind is not None and kind not in found:
                    found.append(kind)
    return found
