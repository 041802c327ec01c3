"""Layouts of the outputs of modules: maps, tokens of transformers, and channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

MAP, TOKENS, CHANNELS_LAST = LAYOUTS = ('map', 'tokens', 'channels_last')
_DIMENSIONS = {MAP: 4, TOKENS: 3, CHANNELS_LAST: 4}
_MOST_UNDECLARED_PREFIX_TOKENS = 8


@dataclass(frozen=True)
class Layout:
    """Arrangement of an output.

    Args:
        kind: ``'map'`` (N, C, H, W), ``'tokens'`` (N, L, C) or ``'channels_last'`` (N, H, W, C).
        grid: (h, w) of the map, for an image of the classroom's ``input_size``.
        prefix_tokens: Number of class, distillation and register tokens before the grid.

    Raises:
        ValueError: If an argument is invalid.
    """

    kind: str
    grid: tuple[int, int]
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'grid', tuple(self.grid))
        if self.kind not in LAYOUTS:
            raise ValueError(
                f'Invalid kind of a layout: expected one of {", ".join(LAYOUTS)}, got {self.kind!r}'
            )
        if len(self.grid) != 2 or any(type(x) is not int or x < 1 for x in self.grid):
            raise ValueError(
                f'Invalid grid of a layout: expected (h, w), two integers of at least 1, got '
                f'{self.grid!r}'
            )
        if type(self.prefix_tokens) is not int or self.prefix_tokens < 0:
            raise ValueError(
                'Invalid prefix_tokens of a layout: expected an integer of at least 0, got '
                f'{self.prefix_tokens!r}'
            )

    def __str__(self) -> str:
        """Describe the layout, e.g. ``14x14 tokens + 1 prefix``; empty for a map."""
        if self.kind == MAP:
            return ''
        size = 'x'.join(map(str, self.grid))
        if self.kind == CHANNELS_LAST:
            return f'{size}, channels last'
        return f'{size} tokens' + (f' + {self.prefix_tokens} prefix' if self.prefix_tokens else '')

    def map_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the map of an output with this layout."""
        return tuple(shape) if self.kind == MAP else (shape[0], shape[-1], *self.grid)

    def to_map(self, x: Tensor) -> Tensor:
        """Rearrange an output as a map (N, C, h, w), without its prefix tokens.

        The grid of tokens of an image of another size has the same ratio of height to width.

        Raises:
            ValueError: If the output does not have this layout.
        """
        if x.ndim != _DIMENSIONS[self.kind]:
            raise ValueError(
                f'Invalid output: expected {_DIMENSIONS[self.kind]} dimensions ({self.kind}), got '
                f'{tuple(x.shape)}'
            )
        if self.kind == MAP:
            return x
        if self.kind == CHANNELS_LAST:
            return x.permute(0, 3, 1, 2)
        height, width = self.grid
        length = x.shape[1] - self.prefix_tokens
        rows = round((max(length, 0) * height / width) ** 0.5)
        if not rows or rows * width % height or rows * (rows * width // height) != length:
            raise ValueError(
                f'Invalid tokens: expected {self.prefix_tokens} prefix tokens and a grid with the '
                f'ratio {height}:{width}, got {x.shape[1]} tokens. Set the layout of MapProjector, '
                "or use images with the aspect ratio of the classroom's input_size"
            )
        return x[:, self.prefix_tokens :].unflatten(1, (rows, -1)).permute(0, 3, 1, 2)


def layout_of(
    member: nn.Module, tap: str, shape: Sequence[int], image_size: Sequence[int]
) -> Layout | None:
    """Infer the layout of a tap's output from its shape.

    The grid of a map has the aspect ratio of the image and divides it by a stride. The number of
    prefix tokens is the one that the network declares (``num_prefix_tokens`` of timm,
    ``num_extra_tokens`` of mmpretrain, ``with_cls_token`` of mmseg), or else the smallest one that
    leaves a grid.

    Args:
        member: The network.
        tap: Dotted name of a module.
        shape: Shape of its output for one image.
        image_size: (H, W) of the image.

    Returns:
        The layout; None for vectors and other outputs without a grid.
    """
    if len(shape) not in (3, 4) or shape[0] != 1:  # a vector, or windows of the image
        return None
    if len(shape) == 4:
        first, last = (_misfit(grid, image_size) for grid in (shape[1:3], shape[2:]))
        rounding = 0 if image_size[0] == image_size[1] else max(image_size)
        if first <= rounding and (last > rounding or (first <= last and _is_nhwc(member, tap))):
            return Layout(CHANNELS_LAST, (shape[1], shape[2]))
        return Layout(MAP, (shape[2], shape[3]))
    counts = map(_prefix_tokens, _enclosing(member, tap))
    declared = next((count for count in counts if count is not None), None)
    prefixes = range(_MOST_UNDECLARED_PREFIX_TOKENS + 1) if declared is None else (declared, 0)
    for exact in (True, False):
        for prefix in prefixes:
            for grid in _grids(shape[1] - prefix, image_size, exact):
                return Layout(TOKENS, grid, prefix)
    return None


def _grids(length: int, size: Sequence[int], exact: bool) -> Iterator[tuple[int, int]]:
    """Yield the grids (h, w) of a number of tokens whose stride divides the image."""
    if length < 1:
        return
    near = int((size[0] * size[1] / length) ** 0.5)
    for stride in range(max(1, near - 1), near + 3):
        if exact and any(side % stride for side in size):
            continue
        for grid in ([side // stride for side in size], [-(-side // stride) for side in size]):
            if grid[0] * grid[1] == length:
                yield grid[0], grid[1]


def _misfit(grid: Sequence[int], size: Sequence[int]) -> int:
    """Return how far a grid is from the aspect ratio of the image; at most a side if rounded."""
    return abs(grid[0] * size[1] - grid[1] * size[0])


def _enclosing(member: nn.Module, tap: str) -> Iterator[Any]:
    """Yield a module and those around it, the innermost first."""
    parts = tap.split('.')
    for end in range(len(parts), -1, -1):
        yield member.get_submodule('.'.join(parts[:end]))


def _prefix_tokens(module: Any) -> int | None:
    for name in ('num_prefix_tokens', 'num_extra_tokens', 'with_cls_token'):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return int(value)
    return None


def _is_nhwc(member: nn.Module, tap: str) -> bool:
    """Return whether a network of timm declares channels-last outputs."""
    return any(
        str(getattr(module, 'output_fmt', '')).endswith('NHWC')
        for module in _enclosing(member, tap)
    )
