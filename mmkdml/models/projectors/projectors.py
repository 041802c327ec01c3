"""Projectors for channels and sizes.

A projector is trained by the loss of its transfer and is part of neither member. ``in_channels``,
``out_channels``, ``in_size`` and ``out_size`` are inferred when the classroom is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmkdml.functional.checks import check_choice
from mmkdml.registry import MODELS

SIDES = ('learner', 'source')


class Projector(nn.Module):
    """Base class of projectors.

    Args:
        side: Side that is projected, ``'learner'`` (as in FitNet) or ``'source'``.

    Raises:
        ValueError: If ``side`` is invalid.
    """

    def __init__(self, side: str = 'learner') -> None:
        super().__init__()
        check_choice('side', side, SIDES)
        self.side = side


@MODELS.register_module()
class IdentityProjector(Projector):
    """Projector that returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        return x


@MODELS.register_module()
class ConvProjector(Projector):
    """Projector with 1x1 convolution, batch norm and ReLU.

    This is the block that the paper adds to its teacher (section 3.2), for networks that are not to
    be changed.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        side: See :class:`Projector`.
        resize: Resize the result bilinearly to the height and width of the other side.
        in_size: (H, W) of the map when the classroom is built; required to resize.
        out_size: (H, W) of the map on the other side; required to resize.

    Raises:
        ValueError: If ``resize`` is set, and a size is missing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        side: str = 'learner',
        resize: bool = False,
        in_size: Sequence[int] | None = None,
        out_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(side)
        self.block = ConvModule(
            in_channels, out_channels, 1, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')
        )
        self.resize = _Resize(in_size, out_size) if resize else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Project (N, C_in, H, W) to (N, C_out, H, W), resized if ``resize`` is set."""
        return self.resize(self.block(x))


@MODELS.register_module()
class LinearProjector(Projector):
    """Projector with a linear layer on the channels of vectors (N, C) or maps (N, C, ...).

    Without bias it is the 1x1 convolution of FitNet (Romero et al., *FitNets*, ICLR 2015) for
    segmentation (winycg/CIRKD:losses/fitnet.py), which also projects equal numbers of channels.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        side: See :class:`Projector`.
        bias: Add a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, side: str = 'learner', bias: bool = True
    ) -> None:
        super().__init__(side)
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project (N, C_in, ...) to (N, C_out, ...)."""
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


@MODELS.register_module()
class InterpolateProjector(Projector):
    """Projector that resizes maps (N, C, H, W) bilinearly.

    Args:
        scale_factor: Ratio of output size to input size, > 0. Default: the ratio of both sides when
            the classroom is built, separately for height and width.
        side: See :class:`Projector`.
        in_size: (H, W) of the map when the classroom is built.
        out_size: (H, W) of the map on the other side.

    Raises:
        ValueError: If the factor is not positive, or factor and sizes are missing.
    """

    def __init__(
        self,
        scale_factor: float | None = None,
        side: str = 'learner',
        in_size: Sequence[int] | None = None,
        out_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(side)
        if scale_factor is not None and not scale_factor > 0:
            raise ValueError(f'scale_factor must be positive, got {scale_factor}')
        self.resize = (
            _Resize(in_size, out_size)
            if scale_factor is None
            else nn.Upsample(scale_factor=scale_factor, mode='bilinear')
        )

    def forward(self, x: Tensor) -> Tensor:
        """Resize (N, C, H, W) to (N, C, H * factor, W * factor), rounded down."""
        return self.resize(x)


class _Resize(nn.Module):
    """Bilinear resizing by the ratio of two sizes, exact at these sizes."""

    def __init__(self, in_size: Sequence[int] | None, out_size: Sequence[int] | None) -> None:
        super().__init__()
        if not in_size or not out_size or len(in_size) != 2 or len(out_size) != 2:
            raise ValueError(
                f'Invalid in_size and out_size: expected (H, W) of both sides, got {in_size} and '
                f'{out_size}. Use maps (N, C, H, W), or set scale_factor'
            )
        self.ratios = tuple(zip(out_size, in_size, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        axes = zip(x.shape[2:], self.ratios, strict=True)
        size = [max(1, round(length * out / own)) for length, (out, own) in axes]
        return F.interpolate(x, size=size, mode='bilinear')
