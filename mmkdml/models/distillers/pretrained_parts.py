"""Pretrained weights that the config of a frozen member names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from mmengine.runner import CheckpointLoader
from torch import nn

from mmkdml.checkpoint_io import guard_checkpoints
from mmkdml.models.backbones import PretrainedTIMMBackbone
from mmkdml.models.input_channels import (
    RGB,
    channels_and_source,
    input_channel_advice,
    input_channels,
)
from mmkdml.weight_checks import (
    check_finite,
    find_misfits,
    find_wrong_types,
    listed,
    select_weights,
)


def load_pretrained_parts(member: Any, name: str) -> tuple[dict[str, str], list[str]]:
    """Load the file of each ``init_cfg`` of type ``Pretrained`` in a network, at any depth.

    For trained members mmengine does so before training. Files are read safely. A file for the
    network must fit exactly. A file for a submodule, such as the backbone, may have additional
    weights. If some parameters are in no file, nothing is loaded, because the network then needs a
    checkpoint.

    Returns:
        The local files by name of the module that was loaded, such as ``teacher.backbone``; and the
        names of submodules with parameters that no file has.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is not a checkpoint or does not fit, or weights are NaN or infinite.
    """
    sources: dict[str, Mapping[str, Any]] = {}
    timm, loaded = [], []
    for prefix, part in member.named_modules():
        if (source := _pretrained(part)) is not None:
            sources[prefix] = source
        if isinstance(part, PretrainedTIMMBackbone) and part.pretrained:
            timm.append(prefix)
        if getattr(part, 'is_init', False):  # timm and Hugging Face backbones load when built
            loaded.append(prefix)
    loaded += [*sources, *timm]
    missing = [
        key
        for key, _ in member.named_parameters()
        if not any(not prefix or key.startswith(f'{prefix}.') for prefix in loaded)
    ]
    if missing:
        return {}, list(dict.fromkeys(key.partition('.')[0] for key in missing))
    if sources or timm:
        _load(member, name, sources)
    files = {
        f'{name}.{prefix}'.rstrip('.'): path
        for prefix, source in sources.items()
        if Path(path := _local_path(source)).is_file()
    }
    return files, []


def check_input_channels(members: Mapping[str, nn.Module]) -> None:
    """Raise if a trained member would load weights for RGB images without their first layer.

    mmengine skips weights of another shape with a warning, which leaves the first layer random.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If weights for RGB images are named for a network with other channels.
    """
    named = [(name, *one) for name in members for one in members[name].named_modules()]
    for name, prefix, part in named:
        source = _pretrained(part)
        if source is None or input_channels(part) == RGB:
            continue
        guard_checkpoints()
        advice = input_channel_advice(part.state_dict(), _read(source))
        if advice:
            raise ValueError(
                f'{source["checkpoint"]} does not fit {name}{prefix and f" ({prefix})"}: expected '
                f'weights for images of {input_channels(part)} channels, got weights for RGB '
                f'images{advice}'
            )


def _local_path(source: Mapping[str, Any]) -> str:
    return str(Path(channels_and_source(source['checkpoint'])[1]).expanduser())


def _load(member: BaseModule, name: str, sources: Mapping[str, Mapping[str, Any]]) -> None:
    guard_checkpoints()
    weights = {prefix: _read(source) for prefix, source in sources.items()}
    before = {key: value.clone() for key, value in member.state_dict().items()}
    member.init_weights()
    after = member.state_dict()
    for prefix in reversed(weights):  # like mmengine, submodules first
        part, loaded = member.get_submodule(prefix), weights[prefix]
        problems = [*_misfits(part, loaded, exactly=not prefix or 'prefix' in sources[prefix])]
        keys = [f'{prefix}.{key}'.lstrip('.') for key, _ in part.named_parameters()]
        # Backbones that convert names while loading (Swin) are valid if every parameter changed.
        converted = prefix and not any(torch.equal(before[key], after[key]) for key in keys)
        if problems and not (converted and _loads_weights_itself(part)):
            raise ValueError(
                f'{sources[prefix]["checkpoint"]} does not fit the frozen {name}'
                f'{prefix and f" ({prefix})"}: expected weights of {type(part).__name__}, got '
                f'other keys or shapes{listed(problems)}'
                f'{input_channel_advice(part.state_dict(), loaded)}'
            )
        if not problems:  # again, because some networks initialize what they have loaded
            part.load_state_dict(loaded, strict=False)
    check_finite(member, member.state_dict(), f'the init_cfg of the frozen {name}')


def _read(source: Mapping[str, Any]) -> dict[str, Any]:
    path, within = source['checkpoint'], source.get('prefix')
    weights = select_weights(CheckpointLoader.load_checkpoint(path, map_location='cpu'), path)
    if within is None:
        return weights
    within = f'{within.rstrip(".")}.'
    return {k.removeprefix(within): v for k, v in weights.items() if k.startswith(within)}


def _misfits(part: nn.Module, weights: Mapping[str, Any], exactly: bool) -> Iterator[str]:
    expected = part.state_dict()
    yield from find_wrong_types(expected, weights)
    for problem in find_misfits(expected, weights):
        # Files from before PyTorch 0.4.1 have no num_batches_tracked, and files for a backbone may
        # have a classifier.
        counts = problem.endswith('num_batches_tracked')
        if not counts and (exactly or not problem.startswith('unexpected')):
            yield problem


def _loads_weights_itself(part: nn.Module) -> bool:
    return getattr(type(part), 'init_weights', None) is not BaseModule.init_weights


def _pretrained(part: nn.Module) -> Mapping[str, Any] | None:
    settings = getattr(part, 'init_cfg', None) or []
    for one in [settings] if isinstance(settings, Mapping) else settings:
        if one.get('type') in ('Pretrained', PretrainedInit):
            return one
    return None
