"""Additional convolutional block of the paper's teacher."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor

from mmkdml.registry import MODELS


@MODELS.register_module()
class ConvBlockNeck(BaseModule):
    """Neck with 1x1 convolution, batch norm, ReLU and pooling (paper, Table 6, "Conv6").

    The block reduces the teacher's feature map to the channels of the students and is trained by
    the teacher's loss. Its ``conv_block`` is the teacher's default tap.

    Args:
        in_channels: Channels of the backbone's last map.
        out_channels: Channels of the shared map and of the classifier's input.
    """

    shared_map = 'neck.conv_block'  # default tap

    def __init__(self, in_channels: int, out_channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.conv_block = ConvModule(
            in_channels, out_channels, 1, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')
        )
        self.pool = GlobalAveragePooling()

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Pool the last map (N, C_in, H, W) to vectors (N, C_out)."""
        return self.pool((self.conv_block(maps[-1]),))
