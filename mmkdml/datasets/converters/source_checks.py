"""Checks of source folders, shared by the converters, which report all problems in one error."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from mmkdml.datasets.channels import read_channels
from mmkdml.datasets.images import DRAWN_ON, read_binary_mask, read_image_and_header
from mmkdml.datasets.splits import SplitRow
from mmkdml.functional.checks import check_choice

Splits = dict[str, list[SplitRow]]
MAX_PROBLEMS = 10
_MAX_NAMES = 5
_BATCH = 256
_T = TypeVar('_T')
_R = TypeVar('_R')


class Problems:
    """Problems of a source folder, raised in one error."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Add a problem; if it is the tenth, raise ValueError with all of them."""
        self.found.append(problem)
        if len(self.found) == MAX_PROBLEMS:
            self.stop_if_any()

    def stop_if_any(self) -> None:
        """Raise ValueError with all problems, if there are any."""
        if self.found:
            more = f', stopped after {MAX_PROBLEMS}' if len(self.found) == MAX_PROBLEMS else ''
            lines = ''.join(f'\n  - {problem}' for problem in self.found)
            raise ValueError(f'Invalid source folder {self.source}{more}:{lines}')

    def check_each(
        self,
        items: Sequence[_T],
        check: Callable[[_T], _R],
        description: str = 'checking images',
        threads: int = 8,
    ) -> Iterator[tuple[_T, _R]]:
        """Yield each valid item with the result of ``check``, then raise the problems, if any.

        A ValueError of ``check`` is a problem. Items are checked in threads, because the decoders
        release the GIL; after an error, those that have not begun are not checked.

        Args:
            items: The items.
            check: Function of an item.
            description: Title of the progress bar.
            threads: Maximum number of threads.
        """
        with ThreadPoolExecutor(max_workers=min(threads, os.cpu_count() or 1)) as pool:
            # Batches limit the memory and the work after the tenth problem.
            batches = (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
            submitted = (
                pair
                for batch in batches
                for pair in [(item, pool.submit(check, item)) for item in batch]
            )
            try:
                console = Console(stderr=True)  # stdout is for the table
                for item, future in track(
                    submitted, description, total=len(items), console=console, transient=True
                ):
                    try:
                        result = future.result()
                    except ValueError as error:
                        self.add(str(error).removeprefix(f'{self.source}/'))
                    else:
                        yield item, result
            finally:
                pool.shutdown(cancel_futures=True)
        self.stop_if_any()


def source_folder(source: str | Path, what: str) -> Path:
    """Convert ``source`` to a path; raise FileNotFoundError if it is not a folder."""
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f'{source} is not a folder; expected {what}')
    return source


def foreground_share(
    image: Path,
    mask: Path,
    modes: Sequence[str] | None = ('RGB',),
    drawn_on: str | None = None,
    channels: int | None = None,
) -> float:
    """Read an image and its mask, and return the share of the foreground, in [0, 1].

    With ``channels``, the image is read by :func:`~mmkdml.datasets.channels.read_channels`.

    Raises:
        ValueError: If a file is invalid, the image has none of the ``modes`` of Pillow, or the mask
            does not fit; see :func:`~mmkdml.datasets.images.read_binary_mask`.
    """
    if channels is None:
        _, header = read_image_and_header(image, None, modes)
    else:
        _, header = read_channels(image, channels)
    return float(read_binary_mask(mask, header, drawn_on).mean())


def warn_of_full_masks(shares: Mapping[str, float]) -> None:
    """Warn of masks that are entirely foreground, which may be correct or a wrong export.

    Args:
        shares: Share of the foreground by path of the mask.
    """
    if full := [path for path, share in shares.items() if share == 1]:
        names = ', '.join(full[:_MAX_NAMES]) + (', ...' if len(full) > _MAX_NAMES else '')
        warnings.warn(
            f'{len(full)} of {len(shares)} masks are entirely foreground: {names}. They are kept; '
            'check that they were not exported wrongly',
            stacklevel=3,
        )


def masks_info(drawn_on: str | None) -> dict[str, str]:
    """Return the entry ``masks_drawn_on`` of ``splits.json``; empty for None."""
    if drawn_on is None:
        return {}
    check_choice('masks_drawn_on', drawn_on, DRAWN_ON)
    return {'masks_drawn_on': drawn_on}


def folder_inside(source: Path, name: str, what: str) -> Path:
    """Return a folder below ``source``; raise an error if it is elsewhere or does not exist."""
    if Path(name).is_absolute() or '..' in Path(name).parts:
        raise ValueError(f'expected {what}, got {name!r}')
    return source_folder(source / name, what)


def paths_by_id(
    paths: Iterable[str], problems: Problems, folder: str = '.', suffix: str = ''
) -> dict[str, str]:
    """Return paths by image id: the path without folder, file suffix and mask suffix."""
    by_id: dict[str, str] = {}
    for path in paths:
        image_id = Path(path).relative_to(folder).with_suffix('').as_posix().removesuffix(suffix)
        if by_id.setdefault(image_id, path) != path:
            problems.add(f'{path}: differs from {by_id[image_id]} only in the suffix')
    return by_id


def find_groups(paths: Collection[str], regex: str | None) -> dict[str, str]:
    """Return the group of each path: what ``regex`` finds in it, or without one the path."""
    if regex is None:
        return {path: path for path in paths}
    try:
        pattern = re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f'Invalid regular expression {regex!r}: {error}') from error
    if not pattern.groups:
        raise ValueError(
            f'expected a regular expression with a group in parentheses, got {regex!r}'
        )
    which = 'group' if 'group' in pattern.groupindex else 1
    groups = {path: match[which] for path in paths if (match := pattern.search(path))}
    if without := [path for path in paths if not groups.get(path)]:
        raise ValueError(
            f'{regex!r} finds no group in {len(without)} of {len(paths)} images, such as '
            f'{", ".join(without[:3])}'
        )
    return groups


def refuse_folds(folds: int | None, published: str) -> None:
    """Raise ValueError if folds are requested for data with published splits."""
    if folds is not None:
        raise ValueError(
            f'Invalid folds: expected none with {published}, because the test images are fixed, '
            f'got {folds}. Use a random split (--ratios, --seed), or omit --folds'
        )
