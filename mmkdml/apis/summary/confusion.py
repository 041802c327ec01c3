"""Confusion matrices of the last test, from ``confusion/confusion.csv``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmkdml.files import is_regular

_FILE = Path('confusion', 'confusion.csv')
_COLUMNS = ['member', 'truth', 'predicted', 'count']
_MAX_CLASSES = 40


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of a member.

    Attributes:
        member: Name of the member.
        classes: Names of the predicted classes.
        rows: True class, and count and share of its cases for each predicted class.
    """

    member: str
    classes: list[str]
    rows: list[tuple[str, list[tuple[int, float]]]]


def read_confusion(run: Path) -> list[Confusion]:
    """Read the confusion matrices; the last one, the ensemble's, comes first.

    If images can have several classes, only the matrices of the ensemble's classes are returned.
    """
    path = run / _FILE
    try:
        table = pd.read_csv(path, keep_default_na=False) if is_regular(path) else None
        if table is None or not set(_COLUMNS) <= set(table.columns):
            return []
        table['count'] = table['count'].astype(int)
    except ValueError:
        return []
    found = []
    for member, own in table.groupby('member', sort=False):
        classes = [str(one) for one in own['truth'].drop_duplicates()]
        own = own.assign(truth=own['truth'].astype(str), predicted=own['predicted'].astype(str))
        matrix = own.pivot_table('count', 'truth', 'predicted', 'sum', 0)
        matrix = matrix.reindex(index=classes, columns=classes, fill_value=0)
        rows = [
            (name, [(int(one), one / total if (total := counts.sum()) else 0.0) for one in counts])
            for name, counts in matrix.iterrows()
        ]
        if len(classes) <= _MAX_CLASSES:
            found.append(Confusion(str(member), classes, rows))
    return _of_last_member(found) or found[::-1]


def _of_last_member(found: list[Confusion]) -> list[Confusion]:
    """Return the matrices of the classes, ``'<member>: <class>'``, of the last member, if any."""
    last = found[-1].member.partition(': ') if found else ('', '', '')
    return [one for one in found if last[1] and one.member.startswith(f'{last[0]}: ')]
