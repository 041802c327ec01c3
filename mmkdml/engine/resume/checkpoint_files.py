"""Atomic writing of checkpoints."""

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


class AtomicFileBackend(LocalBackend):
    """mmengine's local files, written atomically and removed only by :meth:`remove_old`.

    mmengine's ``CheckpointHook`` removes an old checkpoint before it saves the new one.
    """

    def __init__(self) -> None:
        self._old: list[Path] = []

    def put(self, obj: bytes | BytesIO, filepath: str | Path) -> None:
        """Write a file and create its folder if needed.

        Raises:
            OSError: If writing fails; an existing file is then unchanged.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, obj.getvalue() if isinstance(obj, BytesIO) else obj)

    def remove(self, filepath: str | Path) -> None:
        """Mark a file as old."""
        self._old.append(Path(filepath))

    def remove_old(self, *kept: str | Path | None) -> None:
        """Remove the files that are marked as old, except for ``kept``."""
        for path in set(self._old) - {Path(one) for one in kept if one}:
            path.unlink(missing_ok=True)
        self._old.clear()


_VERIFIED: WeakSet[Any] = WeakSet()  # Runners.


def verify_first_checkpoint(runner: Any, path: str | Path) -> None:
    """Check that the first checkpoint of a runner can be loaded; ignore later ones.

    Args:
        runner: The runner.
        path: Checkpoint that was just written. Remote files are not checked.

    Raises:
        ValueError: If a hook or metric has added an object that is not loaded safely.
    """
    if runner in _VERIFIED:
        return
    with raise_in_all_processes():
        if is_main_process() and Path(path).is_file():
            try:
                read_checkpoint(path)
            except ValueError as error:
                raise ValueError(
                    f'Loading the first checkpoint of this run failed: {error}. Find the hook or '
                    'metric that adds such an object, and convert it to a number or a string'
                ) from error
    _VERIFIED.add(runner)


ATOMIC_FILES = dict(backend='mmkdml.atomic_files')
register_backend(ATOMIC_FILES['backend'], AtomicFileBackend, force=True)
