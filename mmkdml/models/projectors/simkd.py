"""Projector of SimKD, which precedes the reused classifier of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmkdml.functional.checks import check_batch_statistics
from mmkdml.functional.shapes import pooled_to
from mmkdml.models.projectors.projectors import Projector
from mmkdml.registry import MODELS


@MODELS.register_module()
class SimKDProjector(Projector):
    """Bottleneck of three convolutions without bias, each with batch norm and ReLU.

    The kernels are 1x1 to C_out / factor channels, 3x3, and 1x1 to C_out channels. Source: Chen et
    al., *Knowledge Distillation with the Reused Teacher Classifier*, CVPR 2022;
    DefangChen/SimKD:models/util.py.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        out_size: (H, W) to which a larger map is average-pooled first. Default: no pooling.
        factor: Reduction of channels; the paper also studies 4 and 8.
        side: See :class:`Projector`.

    Raises:
        ValueError: If the factor is not in [1, C_out].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        out_size: Sequence[int] | None = None,
        factor: int = 2,
        side: str = 'learner',
    ) -> None:
        super().__init__(side)
        if not 1 <= factor <= out_channels:
            raise ValueError(f'factor must be in [1, out_channels = {out_channels}], got {factor}')
        self.out_size = out_size
        width = out_channels // factor
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in (
            (in_channels, width, 1),
            (width, width, 3),
            (width, out_channels, 1),
        ):
            layers += [
                nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.transfer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Project (N, C_in, H, W) to (N, C_out, H', W')."""
        if self.out_size is not None:
            x = pooled_to(x, self.out_size)
        check_batch_statistics(x, self.training)
        return self.transfer(x)
