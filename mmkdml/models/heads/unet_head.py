"""U-Net decoder for backbones with feature maps at strides 2, 4, 8, 16, 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmkdml.registry import MODELS


class UNetBlock(nn.Module):
    """Nearest upsampling by 2, concatenation with the skip, two 3x3 convolutions (BN, ReLU)."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.conv1 = ConvModule(
            in_channels + skip_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg
        )
        self.conv2 = ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Decode (N, C, H, W) and a skip (N, C', 2H, 2W) to (N, C_out, 2H, 2W)."""
        if skip is None:
            x = F.interpolate(x, scale_factor=2.0, mode='nearest')
        else:  # the skip is not exactly twice as large if the image is not a multiple of 32
            x = torch.cat([F.interpolate(x, size=skip.shape[2:], mode='nearest'), skip], dim=1)
        return self.conv2(self.conv1(x))


@MODELS.register_module()
class UNetHead(BaseDecodeHead):
    """U-Net decoder (paper, Table 7; the layout of the ``segmentation_models`` family).

    The decoder has one block per encoder map, the last one without a skip, and a 3x3 convolution to
    the classes. The output of ``blocks.0``, (N, 256, H/16, W/16) by default, is the default tap of
    a classroom.

    Args:
        in_channels: Channels of the encoder's maps, from stride 2 to the deepest.
        widths: Output channels of the blocks, from the deepest.
        norm_cfg: Normalization of the blocks.
        **kwargs: See mmseg's ``BaseDecodeHead``. Defaults are ``threshold=0.5`` if
            ``out_channels=1``, and ``dropout_ratio=0``.

    Raises:
        ValueError: If ``in_channels`` and ``widths`` differ in length.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        widths: Sequence[int] = (256, 128, 64, 32, 16),
        norm_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if len(in_channels) != len(widths):
            raise ValueError(
                'widths must have one entry per encoder map, got '
                f'{len(in_channels)} in_channels {tuple(in_channels)} and {len(widths)} widths '
                f'{tuple(widths)}'
            )
        if kwargs.get('out_channels') == 1:
            kwargs.setdefault('threshold', 0.5)
        kwargs.setdefault('dropout_ratio', 0.0)
        norm_cfg = norm_cfg or dict(type='BN')
        super().__init__(
            in_channels=list(in_channels),
            in_index=list(range(len(in_channels))),
            input_transform='multiple_select',
            channels=widths[-1],
            norm_cfg=norm_cfg,
            **kwargs,
        )
        skips = [*reversed(in_channels[:-1]), 0]
        inputs = [in_channels[-1], *widths[:-1]]
        self.blocks = nn.ModuleList(
            UNetBlock(block_in, skip, out, norm_cfg)
            for block_in, skip, out in zip(inputs, skips, widths, strict=True)
        )
        self.conv_seg = nn.Conv2d(self.channels, self.out_channels, 3, padding=1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Decode maps from stride 2 to the deepest to logits (N, K, H, W) at image size."""
        *skips, x = self._transform_inputs(inputs)
        for block, skip in zip(self.blocks, [*reversed(skips), None], strict=True):
            x = block(x, skip)
        return self.cls_seg(x)
