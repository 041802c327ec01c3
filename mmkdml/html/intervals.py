"""Forest plots inside table cells: an interval per row, and the axis in the header."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

_WIDTH, _MARGIN = 220, 8  # pixels
_MARKERS = {
    'good': '<circle cx="{x}" cy="9" r="4"/>',
    'bad': '<path d="M{x} 9m-4-4l8 8m0-8l-8 8" stroke-width="2.4"/>',
    'neutral': '<rect x="{x}" y="9" width="7" height="7" transform="translate(-3.5 -3.5)"/>',
}


@dataclass(frozen=True)
class IntervalAxis:
    """Horizontal axis that the intervals of a table share.

    Attributes:
        low: Value at the left end.
        high: Value at the right end.
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> IntervalAxis:
        """Build the axis that shows 0 and all values that are not NaN."""
        shown = [0.0, *(value for value in values if not math.isnan(value))]
        low, high = min(shown), max(shown)
        return cls(low, high) if low < high else cls(-1.0, 1.0)

    def plot(
        self,
        value: float,
        interval: tuple[float, float],
        outer: tuple[float, float] | None = None,
        kind: str = 'neutral',
    ) -> Markup:
        """Draw a value with its interval; the numbers are expected next to it, as text.

        Args:
            value: Estimated value.
            interval: Ends of the thick line.
            outer: Ends of the thin line, if any.
            kind: ``'good'``, ``'bad'`` or ``'neutral'``: color and marker.
        """
        parts = [self._line(0, 0, 'zero', vertical=True)]
        if outer is not None and not any(map(math.isnan, outer)):
            parts.append(self._line(*outer, 'outer'))
        parts += [self._line(*interval, 'inner'), _MARKERS[kind].format(x=self._x(value))]
        return Markup(
            f'<svg class="forest {kind}" width="{_WIDTH}" height="18" aria-hidden="true">'
            f'{"".join(parts)}</svg>'
        )

    def ticks(self) -> Markup:
        """Draw the numbers of the axis."""
        inside = [
            tick for tick in MaxNLocator(4).tick_values(self.low, self.high)
            if self.low <= tick <= self.high
        ]  # fmt: skip
        texts = ''.join(f'<text x="{self._x(tick)}" y="13">{tick:g}</text>' for tick in inside)
        return Markup(
            f'<svg class="forest" width="{_WIDTH}" height="18" aria-hidden="true">{texts}</svg>'
        )

    def _x(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f'{_MARGIN + share * (_WIDTH - 2 * _MARGIN):.1f}'

    def _line(self, start: float, end: float, name: str, vertical: bool = False) -> str:
        top, bottom = (0, 18) if vertical else (9, 9)
        return (
            f'<line class="{name}" x1="{self._x(start)}" x2="{self._x(end)}" '
            f'y1="{top}" y2="{bottom}"/>'
        )
