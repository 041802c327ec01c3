"""What the converters share: checking a source, and telling all that is wrong with it at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from mmkdml.datasets.images import DRAWN_ON, read_binary_mask, read_image_and_header
from mmkdml.datasets.splits import SplitRow

Splits = dict[str, list[SplitRow]]
MAX_PROBLEMS = 10
_BATCH = 256
_T = TypeVar('_T')
_R = TypeVar('_R')


class Problems:
    """Collects what is wrong with a source, to tell it in one error.

    Args:
        source: The folder that is checked.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Remembers a problem.

        Raises:
            ValueError: If it is the tenth.
        """
        self.found.append(problem)
        if len(self.found) == MAX_PROBLEMS:
            self.stop_if_any()

    def stop_if_any(self) -> None:
        """Raises ValueError with the problems found, if there are any."""
        if self.found:
            more = f', stopped after {MAX_PROBLEMS}' if len(self.found) == MAX_PROBLEMS else ''
            lines = ''.join(f'\n  - {problem}' for problem in self.found)
            raise ValueError(f'{self.source} cannot be used as it is{more}:{lines}')

    def check_each(
        self, items: Sequence[_T], check: Callable[[_T], _R], description: str
    ) -> Iterator[tuple[_T, _R]]:
        """Yields each item with what ``check`` says of it; its ValueErrors become problems.

        Several items are checked at a time, in threads: Pillow decodes without holding Python up.
        """
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            # By the batch: the tenth problem is not kept waiting, nor are results in memory.
            batches = (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
            submitted = (
                pair
                for batch in batches
                for pair in [(item, pool.submit(check, item)) for item in batch]
            )
            # On stderr, so that a pipe gets the table alone.
            console = Console(stderr=True)
            for item, future in track(
                submitted, description, total=len(items), console=console, transient=True
            ):
                try:
                    result = future.result()
                except ValueError as error:
                    self.add(str(error).removeprefix(f'{self.source}/'))
                else:
                    yield item, result


def source_folder(source: str | Path, what: str) -> Path:
    """The source as a path.

    Raises:
        FileNotFoundError: If it is no folder; the message says ``what`` was expected.
    """
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f'{source} is not a folder; expected {what}')
    return source


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ValueError if the value of an argument is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f'expected {name} {" or ".join(map(repr, allowed))}, got {value!r}')


def mask_shows_foreground(
    image: Path, mask: Path, modes: Sequence[str] | None = ('RGB',), drawn_on: str | None = None
) -> bool:
    """Read an image and its mask, and return whether the mask has any foreground.

    Args:
        image: The image.
        mask: Its mask.
        modes: Modes of Pillow that the image may have; None for all that are supported.
        drawn_on: See :func:`~mmkdml.datasets.images.read_binary_mask`.

    Raises:
        ValueError: If one of them cannot be used or the mask does not fit the image.
    """
    _, header = read_image_and_header(image, None, modes)
    return bool(read_binary_mask(mask, header, drawn_on).any())


def masks_info(drawn_on: str | None) -> dict[str, str]:
    """Return what ``splits.json`` records of the pixels that masks were drawn on.

    Raises:
        ValueError: If ``drawn_on`` is neither ``'stored'`` nor ``'shown'`` nor None.
    """
    if drawn_on is None:
        return {}
    one_of('masks_drawn_on', drawn_on, DRAWN_ON)
    return {'masks_drawn_on': drawn_on}
