"""The projector of FitNet and CWD as the baselines of segmentation have it."""

from __future__ import annotations

from torch import Tensor, nn

from mmkdml.models.projectors.projectors import Projector
from mmkdml.registry import MODELS


@MODELS.register_module()
class PointwiseProjector(Projector):
    """A 1x1 convolution without bias, and nothing behind it: (N, C_in, H, W) -> (N, C_out, H, W).

    With :class:`mmkdml.models.losses.FeatureMSELoss` (weight 10) it is FitNet for segmentation
    (Romero et al., *FitNets*, ICLR 2015; winycg/CIRKD:losses/fitnet.py), which projects even where
    the channels are equal; with :class:`mmkdml.models.losses.ChannelWiseLoss` (weight 50) CWD of
    features (winycg/CIRKD:losses/cwd.py).

    Args:
        in_channels: C_in.
        out_channels: C_out.
        side: See :class:`Projector`.
    """

    def __init__(self, in_channels: int, out_channels: int, side: str = 'learner') -> None:
        super().__init__(side)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        return self.conv(x)
