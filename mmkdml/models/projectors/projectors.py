"""Projectors: modules that make two feature maps (or logits) comparable.

A projector is trained by its transfer's loss alone, belongs to neither member, and is not in the
shipped students. ``in_channels`` and ``out_channels`` are filled in when the classroom is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmkdml.registry import MODELS

SIDES = ('learner', 'source')


class Projector(nn.Module):
    """Base of the projectors.

    Args:
        side: Whose map is projected, ``'learner'`` (as in FitNet) or ``'source'``.

    Raises:
        ValueError: If ``side`` is neither.
    """

    def __init__(self, side: str = 'learner') -> None:
        super().__init__()
        if side not in SIDES:
            raise ValueError(f'side must be one of {", ".join(SIDES)}; got {side!r}')
        self.side = side


@MODELS.register_module()
class IdentityProjector(Projector):
    """Hands the map on as it is; says in a config that nothing is projected."""

    def forward(self, x: Tensor) -> Tensor:
        """The map itself."""
        return x


@MODELS.register_module()
class ConvProjector(Projector):
    """1x1 convolution, batch norm, ReLU: (N, C_in, H, W) -> (N, C_out, H, W).

    The block that the paper adds to its teacher (section 3.2), here outside of any member, for
    networks that cannot be changed.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        side: See :class:`Projector`.
        resize: Whether to resize the result to the other side's height and width, bilinearly.
        in_size: (H, W) of the map when the classroom is built; needed to resize.
        out_size: (H, W) of the map on the other side; needed to resize.

    Raises:
        ValueError: If ``resize`` lacks a size.
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
        """(N, C_in, H, W) -> (N, C_out, H, W), or of the other side's height and width."""
        return self.resize(self.block(x))


@MODELS.register_module()
class LinearProjector(Projector):
    """Linear map of the channels, dimension 1, of vectors (N, C) or maps (N, C, ...).

    Without a bias it is the 1x1 convolution of FitNet (Romero et al., *FitNets*, ICLR 2015) in
    segmentation (winycg/CIRKD:losses/fitnet.py), which projects even where the channels are equal.
    CWD's convolution in the same code does not; it is part of ``ChannelWiseLoss``.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        side: See :class:`Projector`.
        bias: Whether to add a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, side: str = 'learner', bias: bool = True
    ) -> None:
        super().__init__(side)
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, ...) -> (N, C_out, ...)."""
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


@MODELS.register_module()
class InterpolateProjector(Projector):
    """Bilinear resizing of maps (N, C, H, W), for heads and layers that give coarser maps.

    Args:
        scale_factor: Output size over input size, > 0. Default: that of the two sides' maps when
            the classroom is built, for height and width each.
        side: See :class:`Projector`.
        in_size: (H, W) of the map when the classroom is built.
        out_size: (H, W) of the map on the other side.

    Raises:
        ValueError: If the factor is not positive, or there are neither factor nor sizes.
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
        self.scale_factor = None if scale_factor is None else float(scale_factor)
        self.resize = _Resize(in_size, out_size) if scale_factor is None else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H * factor, W * factor), rounded down if a factor was given."""
        if self.resize is not None:
            return self.resize(x)
        return F.interpolate(x, scale_factor=self.scale_factor, mode='bilinear')


class _Resize(nn.Module):
    """Bilinear resizing by the ratio of two sizes, which is exact at these sizes."""

    def __init__(self, in_size: Sequence[int] | None, out_size: Sequence[int] | None) -> None:
        super().__init__()
        if not in_size or not out_size or len(in_size) != 2 or len(out_size) != 2:
            raise ValueError(
                f'Invalid sizes to resize: expected (H, W) of both sides, got {in_size} and '
                f'{out_size}. Use maps (N, C, H, W), or give a scale_factor'
            )
        self.ratios = tuple(zip(out_size, in_size, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        axes = zip(x.shape[2:], self.ratios, strict=True)
        size = [max(1, round(length * out / own)) for length, (out, own) in axes]
        return F.interpolate(x, size=size, mode='bilinear')
