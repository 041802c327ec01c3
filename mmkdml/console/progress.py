"""Progress of several runs, trials or files."""

from __future__ import annotations

import time
from types import TracebackType

from mmkdml.console.console import Console, get_console
from mmkdml.console.numbers import in_words


class OverallProgress:
    """Bar at the bottom of a terminal, with the number of finished units and the remaining time.

    Without a terminal there is no bar; :meth:`text` is for the lines that are written there::

        with OverallProgress(28, 'runs') as progress:
            for run in runs:
                ...
                progress.advance()
                progress.console.line(f'{run} done; {progress.text()}')

    Args:
        total: Number of units.
        unit: Name of the units, in the plural.
        done: Number of units that are already done.
        console: Console to write to. Default: that of this process.
    """

    def __init__(
        self, total: int, unit: str = 'runs', done: int = 0, console: Console | None = None
    ) -> None:
        self.console = console or get_console()
        self.total, self.unit, self.done = total, unit, done
        self._at_start, self._start = done, time.monotonic()
        self._left: float | None = None
        self._note = ''
        self._live = self.console.live()

    def __enter__(self) -> OverallProgress:
        self._live.__enter__()
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def advance(self, done: int | None = None, left: float | None = None, note: str = '') -> None:
        """Set the progress.

        Args:
            done: Number of units that are done. Default: one more.
            left: Estimate of the remaining seconds. Default: from the mean time of the units that
                were done since the start.
            note: Text after the bar, such as the best result so far.
        """
        self.done = self.done + 1 if done is None else done
        self._left, self._note = left, note
        self._draw()

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the remaining seconds; None if nothing was done yet."""
        if self._left is not None:
            return self._left
        new = self.done - self._at_start
        if new <= 0:
            return None
        return (time.monotonic() - self._start) / new * (self.total - self.done)

    def text(self) -> str:
        """Format the progress, e.g. ``3 of 28 runs, about 5 min 2 s left``."""
        left = self.seconds_left
        text = f'{self.done} of {self.total} {self.unit}'
        return text if not left else f'{text}, about {in_words(left)} left'

    def _draw(self) -> None:
        if not self.console.is_terminal:
            return
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(self.total, 1), completed=self.done, width=24)
        grid.add_row(bar, self.text(), self._note)
        self.console.update(grid, now=True)
