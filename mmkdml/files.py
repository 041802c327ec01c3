"""Files that are never met half-written, and JSON that every program reads."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file as a whole or not at all, also if the power fails.

    It is written beside its place, to the disk itself, and takes the place of the old one at once.
    A process that is killed meanwhile leaves ``.<name>.<process>.part``.

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
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')  # others may write the same file
    try:
        with part.open('wb') as file:
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


def _sync_folder(folder: Path) -> None:
    """Puts on disk what the files in a folder are called."""
    if os.name == 'nt':  # where folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
