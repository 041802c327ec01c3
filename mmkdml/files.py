"""Files that are never met half-written, and JSON that every program reads."""

from __future__ import annotations

import json
import math
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file as a whole or not at all, also if the power fails.

    It is written beside its place, to the disk itself, and takes the place of the old one at once.
    A process that is killed meanwhile leaves ``.<name>.<process>.<random>.part``.

    Args:
        path: The file; its folder must be there.
        content: All of it.

    Raises:
        OSError: If it cannot be written, as on a full disk; what was at ``path`` is still there.
    """
    with atomic_writer(path) as file:
        file.write(content)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a file to be written as :func:`write_atomically` does: it is there when the block ends.

    Args:
        path: The file; its folder must be there.

    Yields:
        The open file; places may be sought in it.

    Raises:
        OSError: If it cannot be written; what was at ``path`` is still there, as it is after
            whatever else the block raises.
    """
    path = Path(path)
    # Others may write the same file, with the same process id on another machine.
    part = path.with_name(f'.{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part')
    try:
        with part.open('xb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        message = f'{error.strerror or error} (what was there before is as it was)'
        raise OSError(error.errno, message, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def json_text(content: Any, indent: int | None = None) -> str:
    """Write values as strict JSON, which has no NaN and no infinity: these become null.

    Args:
        content: Dicts, lists, tuples, texts and numbers; numbers and arrays of NumPy and PyTorch,
            too.
        indent: Spaces per level; default: all in one line.

    Raises:
        TypeError: If a value is of another kind.
    """
    return json.dumps(json_values(content), indent=indent, allow_nan=False)


def json_values(value: Any) -> Any:
    """The same values as JSON can hold them: plain numbers and lists, None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: json_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, 'tolist'):  # an array, a tensor or a scalar of either
        return json_values(value.tolist())
    return value


def own_file(root: str | Path, *parts: str | Path) -> Path:
    """Return a path below a folder that can be written without touching files elsewhere.

    Links below the folder are removed (not their targets), and so is a FIFO or device in the
    place of the file, with a warning. Missing folders are created. A path outside ``root``, such
    as an absolute one, is the user's and is returned unchanged.

    Args:
        root: The folder; it may be a link itself.
        *parts: Path of the file, relative to ``root``.
    """
    root, path = Path(root), Path(root, *parts)
    if path.is_relative_to(root):
        for step in (*reversed(path.parents[: len(path.relative_to(root).parts) - 1]), path):
            if step.is_symlink() or (step.exists() and not (step.is_file() or step.is_dir())):
                warnings.warn(f'{step} is a link or a special file and is replaced', stacklevel=2)
                step.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _sync_folder(folder: Path) -> None:
    """Puts on disk what the files in a folder are called."""
    if os.name == 'nt':  # where folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
