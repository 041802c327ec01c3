"""Channels of the images that a network takes, and adaptation of pretrained weights to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

RGB = 3
_PREFIX = 'in_chans='
_ADAPTED = re.compile(rf'{_PREFIX}(\d+):(.+)')
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def possible_input_channels(network: nn.Module) -> list[int]:
    """List how many channels the images of a network may have, the most probable number first.

    These are the input channels of its first convolution, the channels of the mean in its
    preprocessor, and 3. They differ if the network rearranges pixels or has no convolution.
    """
    first = next(
        (part.in_channels for part in network.modules() if isinstance(part, _CONVOLUTIONS)), RGB
    )
    mean = getattr(getattr(network, 'data_preprocessor', None), 'mean', None)
    normalized = len(mean) if isinstance(mean, Tensor) and len(mean) > 1 else RGB
    return list(dict.fromkeys((first, normalized, RGB)))


def input_channels(network: nn.Module) -> int:
    """Return the most probable number of channels of a network's images."""
    return possible_input_channels(network)[0]


def channels_and_source(checkpoint: str) -> tuple[int | None, str]:
    """Split ``'in_chans=4:<checkpoint>'`` into the channels and the checkpoint; None without them.

    Raises:
        ValueError: If it begins with ``in_chans=``, but has another form.
    """
    if not checkpoint.startswith(_PREFIX):
        return None, checkpoint
    match = _ADAPTED.fullmatch(checkpoint)
    if not match or not int(match[1]):
        raise ValueError(
            f"Invalid checkpoint {checkpoint!r}: expected 'in_chans=<channels>:<checkpoint>', such "
            "as 'in_chans=4:torchvision://resnet18'"
        )
    return int(match[1]), match[2]


def load_from_in_chans(checkpoint: str, map_location: Any = None) -> dict[str, Any]:
    """Load a checkpoint of a network for RGB images, adapted to images of other channels.

    mmengine calls it for ``init_cfg=dict(type='Pretrained', checkpoint='in_chans=4:...')``. As with
    timm's ``in_chans``, the weights of the first layers are summed for one channel; for others they
    are repeated and scaled by 3 / ``in_chans``, so that equal channels give equal outputs.

    Args:
        checkpoint: ``'in_chans=<channels>:'`` and a file, URL or name that mmengine loads.
        map_location: See ``torch.load``.

    Raises:
        ValueError: If the form is invalid, or there is no convolution with 3 input channels.
    """
    from timm.models import adapt_input_conv  # takes half a second

    channels, source = channels_and_source(checkpoint)
    content = CheckpointLoader.load_checkpoint(source, map_location)
    weights = content.get('state_dict', content)
    first = [key for key, value in weights.items() if _takes_rgb(value)]
    if not first:
        raise ValueError(
            f'{source} does not fit {_PREFIX}{channels}: expected the weights of a convolution '
            f'(C, 3, h, w) with 3 input channels, got none. Remove {_PREFIX}{channels}:'
        )
    print_log(f'Adapted to {channels} channels: {", ".join(first)} of {source}', 'current')
    adapted = {**weights, **{key: adapt_input_conv(channels, weights[key]) for key in first}}
    return {**content, 'state_dict': adapted} if 'state_dict' in content else adapted


def _takes_rgb(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == RGB


def input_channel_advice(expected: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """Return how to adapt weights for RGB images to a network; empty if its images have 3 channels.

    Args:
        expected: Weights of the network.
        weights: Weights from a file.
    """
    channels = {
        own.shape[1]
        for key, own in expected.items()
        if key in weights and _takes_rgb(weights[key]) and _differ_in_channels(own, weights[key])
    }
    if len(channels) != 1:
        return ''
    option = f"checkpoint='{_PREFIX}{channels.pop()}:FILE'"
    return (
        '. To adapt the first layer of weights for RGB images, name the file in init_cfg='
        f"dict(type='Pretrained', {option}) of the network or its backbone"
    )


def _differ_in_channels(own: Tensor, loaded: Tensor) -> bool:
    same = own.shape[:1] + own.shape[2:] == loaded.shape[:1] + loaded.shape[2:]
    return own.ndim == 4 and same and own.shape[1] != loaded.shape[1]


CheckpointLoader.register_scheme(_PREFIX, load_from_in_chans, force=True)
