"""Durations, numbers and tables as plain text."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence

from prettytable import PrettyTable

# Columns of lines that are written to a file or pipe.
_PLAIN_WIDTH = 100


def terminal_width() -> int:
    """Return the number of columns of the terminal, or 100 without one."""
    return shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns


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
    return f'{value:.{max(0, min(digits, 4))}f}'


def table_text(
    headings: Sequence[str], rows: Sequence[Sequence[object]], align: str = '', indent: int = 2
) -> str:
    """Format a table without borders.

    Args:
        headings: Headings of the columns.
        rows: Cells.
        align: ``'l'`` or ``'r'`` for each column. Default: the first to the left, others right.
        indent: Number of spaces before each line.
    """
    table = PrettyTable(
        list(map(str, headings)), border=False, padding_width=0, right_padding_width=2
    )
    letters = align or 'l' + 'r' * (len(headings) - 1)
    for name, letter in zip(table.field_names, letters, strict=True):
        table.align[name] = letter
    table.add_rows([list(map(str, row)) for row in rows])
    return '\n'.join(f'{"":{indent}}{line.rstrip()}' for line in table.get_string().splitlines())


def member_table(
    rows: Mapping[str, Mapping[str, float]],
    marked: Mapping[str, str] | None = None,
    indent: int = 2,
) -> str:
    """Format measures of members as a table, with a row per member.

    Args:
        rows: Values by measure, by member.
        marked: Mark to the right of a member's values, by its name.
        indent: Number of spaces before each line.
    """
    measures = list(dict.fromkeys(name for values in rows.values() for name in values))
    largest = {
        name: max((abs(values[name]) for values in rows.values() if name in values), default=0)
        for name in measures
    }
    cells = [
        [
            member,
            *(
                f'{values[name]:.{2 if largest[name] >= 1 else 4}f}' if name in values else '-'
                for name in measures
            ),
            (marked or {}).get(member, ''),
        ]
        for member, values in rows.items()
    ]
    return table_text(['member', *measures, ''], cells, 'l' + 'r' * len(measures) + 'l', indent)
