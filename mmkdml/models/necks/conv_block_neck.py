"""The teacher's additional convolutional block."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor

from mmkdml.registry import MODELS


@MODELS.register_module()
class ConvBlockNeck(BaseModule):
    """1x1 convolution, batch norm, ReLU, then global average pooling (paper, Table 6, "Conv6").

    It sits in the teacher before its pooling and classifier and is trained by the teacher's own
    loss; the map it shares has as many channels as the students', which stay compact. Its
    ``conv_block`` is the teacher's tap.

    Args:
        in_channels: Channels of the backbone's last map.
        out_channels: Channels of the shared map, and of the classifier's input.
    """

    shared_map = 'neck.conv_block'  # the tap that a classroom takes unless told otherwise

    def __init__(self, in_channels: int, out_channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.conv_block = ConvModule(
            in_channels, out_channels, 1, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')
        )
        self.pool = GlobalAveragePooling()

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Maps of the stages, the last being (N, C_in, H, W) -> one vector (N, C_out)."""
        return self.pool((self.conv_block(maps[-1]),))
