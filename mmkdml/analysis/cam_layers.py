"""Choice of the layer that Grad-CAM explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmkdml.inspection.stage_names import outputs_of_stages
from mmkdml.inspection.taps_listing import TapRow, tap_rows
from mmkdml.models.distillers.members import evaluating, probe_member
from mmkdml.models.layouts import TOKENS
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import Task

MIN_SIDE = 7  # pixels of a useful map: that of a network of stride 32 for images of 224x224


def choose_layer(member: nn.Module, task: Task, input_size: Sequence[int]) -> str:
    """Choose the deepest layer with a map of useful resolution, at least 7x7 pixels.

    This is the last map before pooling (the default tap) for images of 224x224, and an earlier
    stage for smaller images, for which the last map has only a few pixels. If no stage has such a
    map, the last map is chosen. The grid of a transformer's tokens counts as a map if the logits
    depend on it: in the last block of a network with a class token, they only depend on that token,
    and the block before is chosen.

    Args:
        member: The network.
        task: Task of the network.
        input_size: (H, W) of the images.
    """
    size = tuple(input_size)
    rows = tap_rows(member, task, size)
    maps = {row.name: row for row in rows if len(row.map_shape) == 4}
    default = task.default_tap(member)
    deepest_first = [default, *reversed(outputs_of_stages(rows, size))]
    last_maps = [maps[layer] for layer in deepest_first if layer in maps]
    useful = [row for row in last_maps if min(row.map_shape[2:]) >= MIN_SIDE]
    chosen = (row.name for row in [*useful, *last_maps] if _is_used(member, task, size, row))
    return next(chosen, last_maps[0].name if last_maps else default)


def _is_used(member: nn.Module, task: Task, size: tuple[int, ...], row: TapRow) -> bool:
    """Return whether the logits of a random image depend on a map, for tokens on their grid."""
    if row.layout is None or row.layout.kind != TOKENS:
        return True
    channels = probe_member(member, task, [], size).input_channels or 3
    image = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))
    image = image.to(next(member.parameters())).requires_grad_()
    with evaluating(member), torch.enable_grad(), TapRecorder(member, [row.name]) as taps:
        logits = cast(Tensor, task.logits(member, image))
        (gradient,) = torch.autograd.grad(logits.square().sum(), taps[row.name], allow_unused=True)
    return gradient is not None and bool(row.layout.to_map(gradient).any())
