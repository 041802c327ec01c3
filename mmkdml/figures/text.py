"""Measuring and wrapping of text, so that labels fit into a figure before it is drawn."""

from __future__ import annotations

import re
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

LINE_SPACING = 1.25  # line height relative to the font size


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = 'normal') -> float:
    """Return the width in inches of the longest line of a text at a font size in points."""
    if not text:
        return 0.0
    if '\n' in text:
        return max(text_width(line, size, weight) for line in text.split('\n'))
    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def text_height(text: str, size: float) -> float:
    """Return the height in inches of text of one or several lines; 0 if it is empty."""
    return (text.count('\n') + 1) * size * LINE_SPACING / 72 if text else 0.0


def wrap(text: str, width: float, size: float, max_lines: int = 3, weight: str = 'normal') -> str:
    """Wrap text to a width in inches; a text of too many lines loses its middle.

    Lines are broken at spaces, and within long words after ``_``, ``-``, ``/``, ``.`` and ``,``.
    Existing line breaks are kept.
    """
    wrapped = _wrapped(text, width, size, weight)
    kept = len(text)
    while len(wrapped) > max_lines and kept > 2:
        kept -= 1
        short = f'{text[: kept // 2].rstrip()}…{text[-(kept - kept // 2) :].lstrip()}'
        wrapped = _wrapped(short, width, size, weight)
    return '\n'.join(wrapped)


def _wrapped(text: str, width: float, size: float, weight: str) -> list[str]:
    lines = []
    for paragraph in text.split('\n'):
        line = ''
        for piece in _pieces(paragraph, width, size, weight):
            if line and text_width((line + piece).rstrip(), size, weight) > width:
                lines.append(line.rstrip())
                line = piece.lstrip()
            else:
                line += piece
        lines.append(line.rstrip())
    return lines


def _pieces(text: str, width: float, size: float, weight: str) -> list[str]:
    """Split text where a line may be broken."""
    pieces: list[str] = []
    for word in re.findall(r'\S+\s*|\s+', text):
        if text_width(word.rstrip(), size, weight) <= width:
            pieces.append(word)
            continue
        for part in re.findall(r'[^_\-/.,]+[_\-/.,]*|[_\-/.,]+', word):
            fits = text_width(part.rstrip(), size, weight) <= width
            pieces.extend([part] if fits else part)
    return pieces
