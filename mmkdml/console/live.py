"""Line at the bottom of a terminal that is rewritten while work goes on."""

from __future__ import annotations

import sys
import time
from typing import Any

#: Seconds between lines where there is no terminal.
PLAIN_SECONDS = 30.0


class Live:
    """Progress as a line that is rewritten on a terminal, or as a line now and then without one.

    Args:
        every: Seconds between two lines without a terminal.
        console: ``rich.console.Console`` to write to. Default: standard output.
    """

    def __init__(self, every: float = PLAIN_SECONDS, console: Any = None) -> None:
        from rich.console import Console

        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self._every = every
        self._live: Any = None
        self._last = time.monotonic()

    def update(self, text: str) -> None:
        """Show the current state."""
        if self._console.is_terminal:
            if self._live is None:
                from rich.live import Live as RichLive

                self._live = RichLive(
                    console=self._console, transient=True, auto_refresh=False, screen=False
                )
                self._live.start()
            self._live.update(self._cut(text), refresh=True)
        elif time.monotonic() - self._last >= self._every:
            self.print(text)

    def print(self, text: str = '') -> None:
        """Write lasting text above the live line."""
        self._last = time.monotonic()
        self._console.print(text)
        sys.stdout.flush()

    def clear(self) -> None:
        """Remove the live line until the next update."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _cut(self, text: str) -> Any:
        from rich.text import Text

        return Text(text, no_wrap=True, overflow='ellipsis')
