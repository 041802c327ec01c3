"""How checkpoints get on a disk."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any
from weakref import WeakSet

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend

from mmkdml.checkpoint_io import read_checkpoint
from mmkdml.engine.distributed import raise_in_all_processes
from mmkdml.files import write_atomically

# What a run that was asked to stop saves
INTERRUPTED = 'interrupted.pth'


class AtomicFileBackend(LocalBackend):
    """mmengine's local files, written whole or not at all, and removed only when that is asked.

    ``CheckpointHook`` removes an old checkpoint before it saves the new one. Here it stays until
    :meth:`remove_old`.
    """

    def __init__(self) -> None:
        self._old: list[Path] = []

    def put(self, obj: bytes | BytesIO, filepath: str | Path) -> None:
        """Writes a file, and its folder if need be.

        Raises:
            OSError: If it cannot be written; what was at ``filepath`` is still there.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, obj.getvalue() if isinstance(obj, BytesIO) else obj)

    def remove(self, filepath: str | Path) -> None:
        """Notes a file as old."""
        self._old.append(Path(filepath))

    def remove_old(self, *kept: str | Path | None) -> None:
        """Removes what is old and was not written again."""
        for path in set(self._old) - {Path(one) for one in kept if one}:
            path.unlink(missing_ok=True)
        self._old.clear()


_READ_BACK: WeakSet[Any] = WeakSet()


def verify_first_checkpoint(runner: Any, path: str | Path) -> None:
    """Read a checkpoint that was just written, if it is the first one of its runner.

    Args:
        runner: The runner that wrote it.
        path: The file. Other stores than local folders are not read.

    Raises:
        ValueError: If it cannot be loaded, because a hook or a metric added an unsupported object.
    """
    if runner in _READ_BACK:
        return
    with raise_in_all_processes():
        if is_main_process() and Path(path).is_file():
            try:
                read_checkpoint(path)
            except ValueError as error:
                raise ValueError(
                    f'The first checkpoint of this run was saved, but cannot be loaded: {error}. '
                    'Find the hook or metric that adds such an object, and make it a number or text'
                ) from error
    _READ_BACK.add(runner)


_NAME = 'mmkdml.whole_files'
register_backend(_NAME, AtomicFileBackend, force=True)
ATOMIC_FILES = dict(backend=_NAME)
