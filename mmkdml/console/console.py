"""Console of the tools, based on rich."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.console
    from rich.table import Table
    from rich.text import Text

#: Columns of the output without a terminal, which is a file, a pipe or a log of CI.
PLAIN_WIDTH = 100
#: ``extra`` of a line of a log that is also written to a console that shows only warnings.
ON_CONSOLE = {'on_console': True}
# Seconds between two drawings of the live text.
_REFRESH = 0.2


class Console:
    """Writer of lines and tables, and of a live line at the bottom of a terminal.

    Without a terminal, the output has neither escape codes nor lines that are drawn again, and is
    :data:`PLAIN_WIDTH` columns wide. Text is written literally: rich's markup is not interpreted.

    Args:
        file: Output stream. Default: ``sys.stdout``, looked up at each write.
        **settings: Arguments of ``rich.console.Console``, such as ``force_terminal``.
    """

    def __init__(self, file: IO[str] | None = None, **settings: Any) -> None:
        self._file, self._settings = file, settings
        self._rich: rich.console.Console | None = None
        self._live: Any = None
        self._drawn = 0.0

    @property
    def rich(self) -> rich.console.Console:
        """The console of rich, imported at the first use."""
        if self._rich is None:
            import rich.console

            plain = dict(file=self._file, highlight=False, markup=False, emoji=False)
            self._rich = rich.console.Console(**{**plain, **self._settings})
            if not (self._rich.is_terminal or 'width' in self._settings):
                self._rich.width = PLAIN_WIDTH  # COLUMNS describes another window.
        return self._rich

    @property
    def is_terminal(self) -> bool:
        """Whether lines can be drawn again."""
        return self.rich.is_terminal and not self.rich.is_dumb_terminal

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.rich.width

    def line(self, text: str | Text = '', style: str | None = None) -> None:
        """Write text, which may have several lines; long lines are not broken without a terminal.

        Args:
            text: The text, or a ``rich.text.Text`` with styles.
            style: Style of all of it on a terminal, such as ``'bold'`` or ``'yellow'``.
        """
        self.rich.print(text, style=style, soft_wrap=not self.is_terminal)

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Any]],
        title: str | None = None,
        bold: Collection[tuple[int, int]] = (),
        left: Collection[int] = (0,),
    ) -> None:
        """Write a table.

        Args:
            header: Headings, which may have several lines.
            rows: Cells by row; converted by ``str``.
            title: Line above the table.
            bold: Row and column of each cell to highlight on a terminal.
            left: Columns that are aligned to the left; the others are aligned to the right.
        """
        if title is not None:
            self.line(title, 'bold')
        table = _table(header, rows, bold, left)
        if self.is_terminal:
            self.rich.print(table)
            return
        with self.rich.capture() as capture:
            self.rich.print(table, soft_wrap=True)
        for text in capture.get().splitlines():
            self.line(text.rstrip())

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the text of :meth:`update` below all other lines; no effect without a terminal."""
        if not self.is_terminal or self._live is not None:
            yield
            return
        from rich.live import Live

        # Without a thread, whose locks forked workers of data loaders would inherit.
        self._live = Live(console=self.rich, transient=True, auto_refresh=False)
        try:
            with self._live:
                yield
        finally:
            self._live = None

    def update(self, content: Any, now: bool = False) -> None:
        """Replace the live text, if there is one.

        Args:
            content: Text or another renderable of rich.
            now: Draw it although the last drawing was a moment ago.
        """
        if self._live is not None:
            now = now or time.monotonic() - self._drawn >= _REFRESH
            self._drawn = time.monotonic() if now else self._drawn
            self._live.update(content, refresh=now)


def wrap(parts: Iterable[str], width: int, indent: str = '    ') -> str:
    """Join parts with two spaces, and break the line between parts where it is too long.

    A part that is longer than a line is also broken before words with a colon.
    """
    lines: list[str] = []
    for part in parts:
        fits = len(indent) + len(part) <= width
        for place, piece in enumerate([part] if fits else re.split(r' (?=\S*:)', part)):
            space = ' ' if place else '  '
            if lines and len(lines[-1] + space + piece) <= width and (place or fits):
                lines[-1] += space + piece
            else:
                lines.append((indent * (1 + bool(place)) if lines else '') + piece)
    return '\n'.join(lines)


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    bold: Collection[tuple[int, int]],
    left: Collection[int],
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style='bold')
    for place, name in enumerate(header):
        table.add_column(
            Text(name),
            justify='left' if place in left else 'right',
            vertical='bottom',
            no_wrap=True,
        )
    for number, row in enumerate(rows):
        cells = enumerate(map(str, row))
        table.add_row(
            *(Text(x, 'bold green' if (number, place) in bold else '') for place, x in cells)
        )
    return table


@cache
def get_console() -> Console:
    """Return the console of this process, which writes to ``sys.stdout``."""
    return Console()
