"""Checkpoints in the folder of a run, and the one to resume from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmkdml.files import is_regular, kind_of
from mmkdml.names import INTERRUPTED

RESUMABLE = ('epoch_*.pth', 'iter_*.pth', INTERRUPTED)
BEST = 'best_*.pth'


class RunCheckpoints:
    """Checkpoints in folders: regular files, found by name without being opened.

    Attributes:
        kinds: Checkpoints to resume from: a list for each pattern of names, latest first.
        best: Best checkpoints, which contain only weights.
        special: A message for each link, FIFO, device or folder with the name of a checkpoint.
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
        """All checkpoints."""
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

    def newest(self) -> Path | None:
        """Return the checkpoint to resume from that was written last."""
        paths = [path for kind in self.kinds for path in kind]
        return max(paths, key=lambda path: path.stat().st_mtime, default=None)

    def read(self) -> tuple[dict[Path, Mapping[str, Any]], dict[Path, str]]:
        """Read the latest readable checkpoint of each kind.

        Returns:
            Their ``meta`` by path, and a message by path for each later one that is unreadable.
        """
        from mmkdml.checkpoint_io import recorded_meta
        from mmkdml.models.checkpoints import load_checkpoint_file

        metas: dict[Path, Mapping[str, Any]] = {}
        unreadable: dict[Path, str] = {}
        for kind in self.kinds:
            for path in kind:
                try:
                    metas[path] = recorded_meta(load_checkpoint_file(path))
                    break
                except ValueError as error:
                    unreadable[path] = str(error)
        return metas, unreadable


def newest_checkpoint(work_dir: str | Path) -> Path | None:
    """Find the readable checkpoint of a run with the most iterations.

    Unreadable later ones are skipped with a message on stderr, as are links, FIFOs, devices and
    folders with the name of a checkpoint.

    Args:
        work_dir: Folder of the run.

    Returns:
        The checkpoint; None if there is none.
    """
    checkpoints = RunCheckpoints([Path(work_dir)])
    metas, unreadable = checkpoints.read()
    for message in (*checkpoints.special, *skipped(unreadable)):
        print(message, file=sys.stderr)
    return farthest(metas)


def farthest(metas: Mapping[Path, Mapping[str, Any]]) -> Path | None:
    """Return the checkpoint with the highest iteration, then epoch, in its ``meta``.

    If it is equally far, ``interrupted.pth`` is returned, which also records whether the epoch was
    validated.
    """

    def progress(path: Path) -> tuple[int, ...]:
        meta = metas[path]
        return int(meta.get('iter', 0)), int(meta.get('epoch', 0)), path.name == INTERRUPTED

    return max(metas, key=progress, default=None)


def skipped(unreadable: Mapping[Path, str]) -> list[str]:
    """Return a message for each checkpoint that is skipped because it is unreadable."""
    return [f'{reason}\n{path.name} is skipped' for path, reason in unreadable.items()]


def checkpoint_number(path: Path) -> int:
    """Return the epoch or iteration in a checkpoint's name; 0 if there is none."""
    number = re.search(r'(?:epoch|iter)_(\d+)\.pth$', path.name)
    return int(number[1]) if number else 0
