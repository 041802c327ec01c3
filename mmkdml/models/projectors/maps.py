"""Projector that compares tokens of transformers and channels-last maps as maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmkdml.commands import tool_command
from mmkdml.models.layouts import Layout
from mmkdml.models.projectors.projectors import Projector
from mmkdml.registry import MODELS

Layouts = Layout | list[Layout] | None
Outputs = Tensor | list[Tensor]


@MODELS.register_module()
class MapProjector(Projector):
    """Projector that rearranges the outputs of both sides as maps (N, C, H, W).

    Tokens (N, L, C) of a transformer lose their class, distillation and register tokens and get
    their grid back; channels-last maps (N, H, W, C) are transposed; maps stay as they are. This has
    no parameters. Another projector can then match channels and sizes of one side.

    Args:
        projector: Config or module of a projector for one side of the maps, e.g.
            ``dict(type='mmkdml.ConvProjector', resize=True)``. Default: compare the maps as they
            are.
        source_layout: :class:`~mmkdml.models.layouts.Layout` of the source's output or its
            arguments, e.g. ``dict(kind='tokens', grid=(14, 14), prefix_tokens=1)``; a list if there
            are several taps. Default: inferred when the classroom is built.
        learner_layout: The same for the learner.

    Raises:
        ValueError: If a layout is invalid or cannot be inferred.
    """

    def __init__(
        self,
        projector: nn.Module | None = None,
        source_layout: Any = None,
        learner_layout: Any = None,
    ) -> None:
        super().__init__(side=getattr(projector, 'side', 'learner'))
        self.projector = projector
        self.layouts = tuple(
            _checked_layouts(side, layouts)
            for side, layouts in (('source', source_layout), ('learner', learner_layout))
        )

    def as_maps(self, source: Outputs, learner: Outputs) -> tuple[Outputs, Outputs]:
        """Rearrange the outputs of both sides as maps (N, C, H, W)."""
        return _to_maps(self.layouts[0], source), _to_maps(self.layouts[1], learner)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the projector of maps to its side (N, C, H, W)."""
        return x if self.projector is None else self.projector(x)


def _checked_layouts(side: str, layouts: Any) -> Any:
    if isinstance(layouts, (list, tuple)):
        return [_checked_layouts(side, layout) for layout in layouts]
    if isinstance(layouts, Layout):
        return layouts
    try:
        if isinstance(layouts, Mapping):
            return Layout(**layouts)
    except TypeError as error:
        raise ValueError(f'Invalid {side}_layout {dict(layouts)!r}: {error}') from error
    raise ValueError(
        f'Invalid {side}_layout: expected a dict with kind, grid and prefix_tokens, got '
        f'{layouts!r}. It is inferred for maps (N, C, H, W), tokens (N, L, C) of a grid, and '
        f'channels-last maps; choose such a tap ({tool_command("list_taps")} lists all), or set it'
    )


def _to_maps(layouts: Any, outputs: Outputs) -> Outputs:
    if isinstance(outputs, list):
        return [layout.to_map(x) for layout, x in zip(layouts, outputs, strict=True)]
    return layouts.to_map(outputs)
