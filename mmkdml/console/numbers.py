"""Durations and numbers for people."""

from __future__ import annotations

import math


def in_words(seconds: float) -> str:
    """Format a duration: ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f'{minutes} min {rest} s' if minutes else f'{rest} s'
    return f'{minutes // 60} h {minutes % 60} min'


def short_number(value: float) -> str:
    """Format a number with three digits: ``0.0123``, ``1.23``, ``123``, ``1.2e-05``."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e4:
        return f'{value:.1e}'
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f'{value:.{max(digits, 0)}f}'
