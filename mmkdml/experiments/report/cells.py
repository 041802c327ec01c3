"""What a table of results is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmkdml.experiments.paper.values import PaperValue
from mmkdml.models.transfers import STUDENTS
from mmkdml.names import ENSEMBLE, TEACHER

#: Short names of the members of a classroom, in the order of the paper's rows.
MEMBERS = {TEACHER: 'T', STUDENTS[0]: 'S1', STUDENTS[1]: 'S2', ENSEMBLE: 'Ensemble'}


@dataclass(frozen=True)
class Cell:
    """One figure: a measure of one member over the seeds of a run.

    Attributes:
        run: Name of the run; empty if the suite has none for this place.
        member: ``teacher``, ``student_1``, ``student_2``, ``ensemble`` or ``model``; ``students``
            for what they have together.
        measure: The measure.
        mean: Over the seeds that are done, in the unit of its panel; ``nan`` without any.
        std: Their sample standard deviation (n - 1); ``nan`` below two.
        done: Number of seeds that are done and in the mean.
        expected: Number of seeds of the run in the suite.
        low: Lower end of the mean's 95 % bootstrap interval, see
            :func:`~mmkdml.statistics.bootstrap.estimate`; ``nan`` if not computable.
        high: Upper end.
        paper: What the paper has in this place.
        digits: Shown behind the point.
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
        """``84.12 ± 0.31 (3)``; ``(2 of 3)`` where seeds are missing; ``-`` where all are."""
        if not self.done:
            return '-'
        spread = '' if math.isnan(self.std) else f' ± {self.std:.{self.digits}f}'
        of = '' if self.done == self.expected else f' of {self.expected}'
        return f'{self.mean:.{self.digits}f}{spread} ({self.done}{of})'

    @property
    def theirs(self) -> str:
        """``[80.12 ± 0.597]``, with an asterisk where it is doubtful; empty if there is none."""
        if self.paper is None:
            return ''
        return f'[{self.paper.text}{"*" if self.paper.doubt else ""}]'


@dataclass(frozen=True)
class Row:
    """A row of a panel.

    Attributes:
        block: The mode, or the variant of a run that is in no mode.
        label: Short name of the member, or of the run.
        cells: One for each column.
    """

    block: str
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Panel:
    """A part of a table with its own columns.

    Attributes:
        title: What it shows.
        columns: Heads of the columns.
        rows: The rows, those of a block together.
        unit: Of all figures; empty where the columns say it, or for pure numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unit: str = 'percent'

    @property
    def heading(self) -> str:
        """The title, with the unit if it is not percent."""
        return self.title if self.unit in ('', 'percent') else f'{self.title} ({self.unit})'


@dataclass(frozen=True)
class Table:
    """The results of a suite with one of its checkpoints.

    Attributes:
        suite: Name of the suite.
        title: Heading: the suite, the checkpoint, the part.
        checkpoint: ``'best'`` or ``'last'``.
        panels: Networks alone, then modes by styles for each measure, then all other runs; then
            what was measured beside quality.
        notes: How to read it, what is missing, and what is doubtful of the paper's figures.
    """

    suite: str
    title: str
    checkpoint: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, row by row."""
        return [cell for panel in self.panels for row in panel.rows for cell in row.cells]
