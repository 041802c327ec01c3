"""Data classes of result tables: table, panel, row and cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmkdml.experiments.paper.values import PaperValue
from mmkdml.modes import STUDENTS
from mmkdml.names import ENSEMBLE, TEACHER

#: Short names of the members of a classroom, in the order of the paper's rows.
MEMBERS = {TEACHER: 'T', STUDENTS[0]: 'S1', STUDENTS[1]: 'S2', ENSEMBLE: 'Ensemble'}


@dataclass(frozen=True)
class TableCell:
    """A measure of one member over the seeds of a run.

    Attributes:
        run: Name of the run; empty if the suite has none for this cell.
        member: ``teacher``, ``student_1``, ``student_2``, ``ensemble`` or ``model``; ``students``
            for a joint value of all students.
        measure: Name of the measure.
        mean: Mean over the finished seeds, in the unit of the panel; NaN if there are none.
        std: Sample standard deviation (n - 1); NaN with fewer than two seeds.
        done: Number of finished seeds.
        expected: Number of seeds of the run in the suite.
        low: Lower end of the 95 % interval of the mean, see
            :func:`~mmkdml.statistics.bootstrap.estimate`; NaN if not computable.
        high: Upper end of the interval.
        paper: The paper's value for this cell, if any.
        digits: Number of decimals.
    """

    run: str
    member: str
    measure: str
    mean: float = float('nan')
    std: float = float('nan')
    done: int = 0
    expected: int = 0
    low: float = float('nan')
    high: float = float('nan')
    paper: PaperValue | None = None
    digits: int = 2

    @property
    def ours(self) -> str:
        """Our value and number of seeds, e.g. ``84.12 ± 0.31 (2 of 3)``; ``-`` without seeds."""
        if not self.done:
            return '-'
        spread = '' if math.isnan(self.std) else f' ± {self.std:.{self.digits}f}'
        missing = '' if self.done == self.expected else f' of {self.expected}'
        return f'{self.mean:.{self.digits}f}{spread} ({self.done}{missing})'

    @property
    def theirs(self) -> str:
        """The paper's value, e.g. ``[80.12 ± 0.597]``; with ``*`` if doubtful, empty if none."""
        if self.paper is None:
            return ''
        return f'[{self.paper.text}{"*" if self.paper.doubt else ""}]'


@dataclass(frozen=True)
class TableRow:
    """A row of a panel.

    Attributes:
        block: Mode, or variant of a run without a mode. Rows of a block are grouped.
        label: Short name of the member, or name of the run.
        cells: One cell per column.
    """

    block: str
    label: str
    cells: tuple[TableCell, ...]


@dataclass(frozen=True)
class TablePanel:
    """Part of a table with columns of its own.

    Attributes:
        title: Title of the panel.
        columns: Column headers.
        rows: Rows, ordered by block.
        unit: Unit of all values; empty if they have none or the columns state it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    unit: str = 'percent'

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f'{self.title} ({self.unit})' if self.unit else self.title


@dataclass(frozen=True)
class Table:
    """Results of a suite for one checkpoint.

    Attributes:
        suite: Name of the suite.
        title: Suite, checkpoint and data split.
        checkpoint: ``'best'`` or ``'last'``.
        panels: Single networks, modes and styles for each measure, other runs, auxiliary metrics.
        notes: Explanations, missing runs and doubtful values of the paper.
    """

    suite: str
    title: str
    checkpoint: str
    panels: tuple[TablePanel, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> list[TableCell]:
        """All cells, row by row."""
        return [cell for panel in self.panels for row in panel.rows for cell in row.cells]
