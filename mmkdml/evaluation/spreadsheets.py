"""CSV tables that are safe to open in a spreadsheet."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

# Matches text that spreadsheets execute, but not numbers with a sign.
_FORMULA = re.compile(r'(?![-+][\d.]+$)[=+\-@\t\n]')


def csv_text(table: pd.DataFrame) -> str:
    """Format a table as CSV without its index, escaping formulas.

    Spreadsheets execute text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a newline, and
    names of files and classes may come from untrusted sources. In cells and headers, such text is
    prefixed with an apostrophe.
    """
    texts = table.select_dtypes(exclude='number')
    escaped = table.assign(**{name: texts[name].map(_escape) for name in texts})
    return escaped.rename(columns=_escape).to_csv(index=False)


def _escape(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = value.replace('\r', '\n')  # a carriage return is not quoted and would end the row
    return f"'{value}" if _FORMULA.match(value) else value
