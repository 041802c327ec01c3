"""Line charts as SVG that follows the colors of the page; drawn in a millisecond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from mmkdml.html.theme import SERIES

Point = tuple[float, float]
_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 36
_MAX_POINTS = 200
# Fewest decades for a logarithmic axis.
_DECADES = 1.5
_DASHES = ('', '6 3', '2 3', '8 3 2 3')


@dataclass(frozen=True)
class Line:
    """Line of a chart.

    Attributes:
        name: Name in the legend.
        points: Points (x, y); those that are not finite interrupt the line.
        style: Index of the color in :data:`~mmkdml.html.theme.SERIES`. Larger numbers repeat the
            colors with dashes.
        marked: Point to mark, such as the best one.
    """

    name: str
    points: Sequence[Point]
    style: int = 0
    marked: Point | None = None

    @property
    def css(self) -> str:
        """CSS of the stroke."""
        dash = _DASHES[self.style // len(SERIES) % len(_DASHES)]
        dashes = f';stroke-dasharray:{dash}' if dash else ''
        return f'stroke:var(--series-{self.style % len(SERIES) + 1}){dashes}'


def line_chart(lines: Sequence[Line], x_label: str, title: str) -> Markup:
    """Draw a chart; a positive quantity over several decades gets a logarithmic axis.

    Args:
        lines: The lines, at least one.
        x_label: Label of the horizontal axis.
        title: Alternative text, with the unit of the vertical axis.
    """
    points = [point for line in lines for point in line.points if all(map(math.isfinite, point))]
    if not points:
        return Markup('')
    xs, ys = zip(*points, strict=True)
    is_log = min(ys) > 0 and math.log10(max(ys) / min(ys)) >= _DECADES
    x_low, x_high, x_ticks = _axis(min(0, *xs), max(xs))
    if is_log:
        y_low, y_high, y_ticks = _log_axis(min(ys), max(ys))
    else:
        y_low, y_high, y_ticks = _axis(min(ys), max(ys))

    def x_of(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        low, high, at = (math.log10(one) if is_log else one for one in (y_low, y_high, value))
        return _HEIGHT - _BOTTOM - (at - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{_text(tick)}</text>')
    for tick in x_ticks:
        x = x_of(tick)
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" class="middle">{_text(tick)}</text>'
        )
    base = _HEIGHT - _BOTTOM
    parts.append(f'<path class="axis" d="M{_LEFT} {base}H{_WIDTH - _RIGHT}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" class="middle">{escape(x_label)}</text>')
    for line in lines:
        kept = _thinned(line.points)
        path = _path([(x_of(x), y_of(y) if _drawable(y, is_log) else math.nan) for x, y in kept])
        label = escape(line.name)
        parts.append(
            f'<path class="line" d="{path}" style="{line.css}"><title>{label}</title></path>'
        )
        shown = [line.marked] if line.marked else []
        if len(line.points) == 1:
            shown = list(line.points)
        for x, y in shown:
            if math.isfinite(x) and _drawable(y, is_log):
                parts.append(
                    f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="4.5" style="{line.css}">'
                    f'<title>{label}: {y:.4g} at {x_label} {x:g}</title></circle>'
                )
    parts.append('</svg>')
    return Markup(''.join(parts))


def _drawable(y: float, is_log: bool) -> bool:
    return math.isfinite(y) and (y > 0 or not is_log)


def _path(points: Sequence[Point]) -> str:
    path, pen = [], 'M'
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            path.append(f'{pen}{x:.1f} {y:.1f}')
            pen = 'L'
        else:
            pen = 'M'
    return ''.join(path)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Average neighbors of a long line."""
    size = math.ceil(len(points) / _MAX_POINTS)
    if size <= 1:
        return points
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in (points[start : start + size] for start in range(0, len(points), size))
    ]


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Return limits and about five ticks at round numbers."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = abs(high) / 2 or 1.0
        low, high = (low, high + margin) if low == 0 else (low - margin, high + margin)
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _log_axis(low: float, high: float) -> tuple[float, float, list[float]]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / 6))
    ticks = [10.0**power for power in range(first, last + 1, step)]
    return 10.0**first, max(10.0**last, ticks[-1]), ticks


def _text(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f'{value:.0e}'.replace('e-0', 'e-').replace('e+0', 'e')
    return f'{value:.6g}'
