"""Tables as CSV that a spreadsheet shows and does not run."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

# A number with a sign is none.
_FORMULA = re.compile(r'(?![-+][\d.]+$)[=+\-@\t\n]')


def csv_text(table: pd.DataFrame) -> str:
    """The table as CSV, without its index.

    A spreadsheet takes a text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a new
    line for a formula, which may fetch an address or start a program, and names of files and
    classes may come from anywhere. Such texts get an apostrophe in front, also as headings.
    """
    texts = table.select_dtypes(exclude='number')
    shown = table.assign(**{name: texts[name].map(_harmless) for name in texts})
    return shown.rename(columns=_harmless).to_csv(index=False)


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = value.replace('\r', '\n')  # which would end the row, for it is not quoted
    return f"'{value}" if _FORMULA.match(value) else value
