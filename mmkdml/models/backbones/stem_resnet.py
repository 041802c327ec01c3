"""ResNet that also returns the feature map of its stem, for U-Nets."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.backbones import ResNet
from torch import Tensor

from mmkdml.registry import MODELS


@MODELS.register_module()
class StemResNet(ResNet):
    """mmpretrain's ResNet that returns the stride-2 map of its stem before the maps of its stages.

    Parameter names equal those of :class:`mmpretrain.models.ResNet`, so its checkpoints and
    torchvision's can be loaded.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_indices: Stages whose maps are returned.
        **kwargs: See :class:`mmpretrain.models.ResNet`.
    """

    def __init__(
        self, depth: int, out_indices: tuple[int, ...] = (0, 1, 2, 3), **kwargs: Any
    ) -> None:
        super().__init__(depth, out_indices=out_indices, **kwargs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute maps at strides 2, 4, 8, 16, 32 of images (N, C, H, W)."""
        stem = self.stem(x) if self.deep_stem else self.relu(self.norm1(self.conv1(x)))
        x = self.maxpool(stem)
        maps = [stem]
        for index, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)
