"""The checkpoints in a run's folder: which there are, and which one to resume from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmkdml.engine import INTERRUPTED
from mmkdml.models.checkpoints import load_checkpoint_file

RESUMABLE = ('epoch_*.pth', 'iter_*.pth', INTERRUPTED)
BEST = 'best_*.pth'


class RunCheckpoints:
    """Regular files with the names of checkpoints in folders; nothing is opened.

    Args:
        folders: The folders.

    Attributes:
        kinds: Those with all that resuming needs, by pattern of their names, latest first.
        best: Those of best validations, which hold weights only.
        special: A message for each link, FIFO, device or folder with such a name.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        folders = list(folders)
        self.special: list[str] = []
        self.kinds = [
            sorted(self._find(folders, pattern), key=checkpoint_number, reverse=True)
            for pattern in RESUMABLE
        ]
        self.best = sorted(self._find(folders, BEST))

    @property
    def all(self) -> list[Path]:
        """All of them."""
        return [*(path for kind in self.kinds for path in kind), *self.best]

    def _find(self, folders: list[Path], pattern: str) -> list[Path]:
        paths = [
            path
            for folder in folders
            if folder.is_dir()
            for path in sorted(folder.iterdir())  # glob() hides dangling links
            if path.match(pattern)
        ]
        self.special += [
            f'{path} is skipped: expected a regular file, got {kind_of(path)}'
            for path in paths
            if not is_regular(path) and os.path.lexists(path)
        ]
        return [path for path in paths if is_regular(path)]

    def read(self) -> tuple[dict[Path, Mapping[str, Any]], dict[Path, str]]:
        """Read the latest readable checkpoint of each kind.

        Returns:
            Their ``meta``, and a message for each later one that cannot be read.
        """
        metas: dict[Path, Mapping[str, Any]] = {}
        unreadable: dict[Path, str] = {}
        for kind in self.kinds:
            for path in kind:
                try:
                    meta = load_checkpoint_file(path).get('meta')
                except ValueError as error:
                    unreadable[path] = str(error)
                    continue
                metas[path] = meta if isinstance(meta, Mapping) else {}
                break
        return metas, unreadable


def newest_checkpoint(work_dir: str | Path) -> Path | None:
    """Find the checkpoint of a run that is farthest on, among those that can be read.

    Later ones that cannot be read are skipped with a message on stderr, as are links, FIFOs,
    devices and folders with the name of a checkpoint.

    Args:
        work_dir: Folder of the run.
    """
    checkpoints = RunCheckpoints([Path(work_dir)])
    metas, unreadable = checkpoints.read()
    for message in (*checkpoints.special, *skipped(unreadable)):
        print(message, file=sys.stderr)
    return farthest(metas)


def farthest(metas: Mapping[Path, Mapping[str, Any]]) -> Path | None:
    """The checkpoint with the highest iteration, and epoch, in its ``meta``."""

    def progress(path: Path) -> tuple[int, ...]:
        return tuple(int(metas[path].get(key, 0)) for key in ('iter', 'epoch'))

    return max(metas, key=progress, default=None)


def skipped(unreadable: Mapping[Path, str]) -> list[str]:
    """A message for each checkpoint that is not used because it cannot be read."""
    return [f'{reason}\n{path.name} is skipped' for path, reason in unreadable.items()]


def checkpoint_number(path: Path) -> int:
    """Number of the epoch or iteration in a checkpoint's name; 0 if there is none."""
    number = re.search(r'(?:epoch|iter)_(\d+)\.pth$', path.name)
    return int(number[1]) if number else 0


def is_regular(path: Path) -> bool:
    """Whether a path is a regular file and not a link to one."""
    return path.is_file() and not path.is_symlink()


def kind_of(path: Path) -> str:
    """Name of what is at a path, if it is not a regular file."""
    if path.is_symlink():
        return f'a link to {path.readlink()}'
    return 'a folder' if path.is_dir() else 'a special file'
