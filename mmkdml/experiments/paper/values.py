"""Values published in the paper, with notes on doubtful ones.

``data/reference_results.csv`` contains all values of the paper's tables,
``data/reference_weights.csv`` the loss weights of each mode and style, and
``data/reference_doubts.csv`` notes on values that are inconsistent or hard to read. A note without
a cell applies to the table.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NETWORKS = {'r50': 'resnet50', 'r18': 'resnet18', 'mbv1': 'mobilenet'}
"""The paper's networks by the names of their baseline runs."""

SINGLE = 'single'
"""Member of a single network."""

PERFORMANCE, FIDELITY = 'performance', 'fidelity'
_CELL = ('mode', 'style', 'method', 'member', 'metric')


@dataclass(frozen=True)
class PaperValue:
    """A cell of the paper's tables.

    Attributes:
        table: Table, e.g. ``'Table 4'``.
        mean: Mean in percent.
        std: Standard deviation over runs (three, according to the paper), in percentage points.
        text: Value as printed, e.g. ``'80.12 ± 0.597'``.
        doubt: Reason why the value is doubtful; empty if it is not.
    """

    table: str
    mean: float
    std: float
    text: str
    doubt: str


def paper_value(
    tables: Sequence[str],
    mode: str,
    style: str,
    member: str,
    measure: str,
    method: str = '',
    quantity: str = PERFORMANCE,
) -> PaperValue | None:
    """Look up a value of the paper's journal version.

    Args:
        tables: Tables to search, e.g. ``('Table 4', 'Table 2')``.
        mode: ``ml``, ``kd_off``, ``kd_on``, ``kdml``, ``baseline`` or ``comparison``.
        style: ``v1``, ``v2`` or ``v3``; empty for baselines and comparisons.
        member: ``teacher``, ``student_1``, ``student_2`` or ``ensemble``; ``single`` for baselines
            and comparisons.
        measure: Name among :data:`~mmkdml.statistics.measures.MEASURES`.
        method: Network of a baseline (see :data:`NETWORKS`) or name of a compared method; empty
            otherwise.
        quantity: ``'performance'``, or ``'fidelity'`` with the teacher's predictions as truth.

    Returns:
        The value, or None if the tables have no such cell.

    Raises:
        ValueError: If the paper has no such table, or several of the tables have the cell.
    """
    values, doubts, known = _printed_values(), _doubts(), _table_names()
    unknown = [table for table in tables if table not in known]
    if unknown:
        raise ValueError(
            f'Invalid tables: expected {", ".join(known)}, got {", ".join(map(str, unknown))}'
        )
    cell = (mode, style, NETWORKS.get(method, method), member, measure.lower())
    found = [table for table in tables if (table, quantity, *cell) in values]
    if len(found) > 1:
        raise ValueError(
            f'Invalid tables: expected one with {" ".join(filter(None, cell))}, got '
            f'{" and ".join(found)}. Choose one of them'
        )
    if not found:
        return None
    (table,) = found
    mean, std = values[(table, quantity, *cell)]
    doubt = '; '.join(doubts.get((table, *cell), []))
    return PaperValue(table, float(mean), float(std), f'{mean} ± {std}', doubt)


def table_notes(table: str) -> list[str]:
    """Return the notes on an entire table, not on one of its cells."""
    return list(_doubts().get((table, *[''] * len(_CELL)), []))


@cache
def _printed_values() -> dict[tuple[str, ...], tuple[str, str]]:
    """Load mean and std, as printed in the journal version, by table, quantity and cell."""
    return {
        (row['table'], row['quantity'], *(row[key] for key in _CELL)): (row['mean'], row['std'])
        for row in read_data('reference_results.csv')
        if row['version'] == 'v2'
    }


@cache
def _table_names() -> list[str]:
    return list(dict.fromkeys(table for table, *_ in _printed_values()))


@cache
def _doubts() -> dict[tuple[str, ...], list[str]]:
    """Load the notes by table and cell; the cell is empty for a note on the table."""
    notes: dict[tuple[str, ...], list[str]] = {}
    for row in read_data('reference_doubts.csv'):
        notes.setdefault((row['table'], *(row[key] for key in _CELL)), []).append(row['note'])
    return notes


def read_data(name: str) -> list[dict[str, str]]:
    """Read the rows of a CSV file in ``data``."""
    with (Path(__file__).parent / 'data' / name).open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))
