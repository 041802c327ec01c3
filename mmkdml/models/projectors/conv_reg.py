"""Convolutional regressor of FitNet, which matches channels and size of another map."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmkdml.functional.checks import check_batch_statistics, check_choice
from mmkdml.models.projectors.projectors import Projector
from mmkdml.registry import MODELS

CONNECTOR_REFERENCES = ('simkd', 'repdistiller')


@MODELS.register_module()
class ConvReg(Projector):
    """Projector with convolution, batch norm and ReLU, whose kernel depends on the sizes.

    ====================  ====================================================
    in = 2 * out          3x3, stride 2
    2 * in = out          4x4, transposed, stride 2
    in >= out             (1 + in - out) along each axis, without padding; 1x1 if
                          the sizes are equal
    in <= out             3x3, same size; ``FitNetLoss`` then pools the source's map
                          to this size. Only for ``'simkd'``
    ====================  ====================================================

    Source: DefangChen/SimKD:models/util.py, HobbitLong/RepDistiller:models/util.py.

    Args:
        in_channels: C of the map.
        out_channels: C of the result.
        in_size: (H, W) of the map.
        out_size: (H, W) of the map on the other side.
        reference: ``'simkd'``, or ``'repdistiller'`` without the last row.
        side: See :class:`Projector`.

    Raises:
        ValueError: If no row applies, or an option is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_size: Sequence[int],
        out_size: Sequence[int],
        reference: str = 'simkd',
        side: str = 'learner',
    ) -> None:
        super().__init__(side)
        check_choice('reference', reference, CONNECTOR_REFERENCES)
        axes = list(zip(in_size, out_size, strict=True))
        channels = (in_channels, out_channels)
        self.conv: nn.Module
        if all(own == 2 * other for own, other in axes):
            self.conv = nn.Conv2d(*channels, 3, stride=2, padding=1)
        elif all(2 * own == other for own, other in axes):
            self.conv = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
        elif all(own >= other for own, other in axes):
            height, width = (1 + own - other for own, other in axes)
            self.conv = nn.Conv2d(*channels, (height, width))
        elif reference == 'simkd' and all(own <= other for own, other in axes):
            self.conv = nn.Conv2d(*channels, 3, padding=1)
        else:
            repdistiller = reference == 'repdistiller'
            raise ValueError(
                f'Invalid sizes for ConvReg with reference={reference!r}: expected both axes to '
                f'shrink, stay or double{"" if repdistiller else ", or both to grow"}, got '
                f'{tuple(in_size)} and {tuple(out_size)}. Choose other taps'
                + (", or reference='simkd'" if repdistiller else '')
            )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Project (N, C_in, H, W) to (N, C_out, H', W') with the size in the table."""
        x = self.conv(x)
        check_batch_statistics(x, self.training)
        return F.relu(self.norm(x), inplace=True)
