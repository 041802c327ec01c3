"""Atomic writing of files, strict JSON, hashes and kinds of files."""

from __future__ import annotations

import hashlib
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
        message = f'{error.strerror or error} (the file before is unchanged)'
        raise OSError(error.errno, message, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def json_text(content: Any, indent: int | None = None) -> str:
    """Format values as strict JSON, with null for NaN and infinity, which JSON does not have.

    Args:
        content: Dicts, lists, tuples, texts and numbers; numbers and arrays of NumPy and PyTorch,
            too.
        indent: Spaces per level; default: all in one line.

    Raises:
        TypeError: If a value is of another kind.
    """
    return json.dumps(json_values(content), indent=indent, allow_nan=False)


def json_values(value: Any) -> Any:
    """Convert values for strict JSON: plain numbers and lists, None for NaN and infinity."""
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

    Links below the folder (not their targets) and FIFOs or devices in the place of the file are
    removed with a warning. Missing folders are created. A path outside ``root``, such
    as an absolute one, was chosen by the user and is returned unchanged.

    Args:
        root: The folder; it may be a link itself.
        *parts: Path of the file, relative to ``root``.
    """
    root, path = Path(root), Path(root, *parts)
    if path.is_relative_to(root):
        for step in (*reversed(path.parents[: len(path.relative_to(root).parts) - 1]), path):
            if step.is_symlink() or (step.exists() and not (step.is_file() or step.is_dir())):
                warnings.warn(f'{step} is {kind_of(step)} and is replaced', stacklevel=2)
                step.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_regular(path: Path) -> bool:
    """Return whether a path is a regular file and not a link to one."""
    return path.is_file() and not path.is_symlink()


def kind_of(path: Path) -> str:
    """Describe what is at a path that is not a regular file."""
    if path.is_symlink():
        return f'a link to {path.readlink()}'
    return 'a folder' if path.is_dir() else 'a special file'


def _sync_folder(folder: Path) -> None:
    """Puts on disk what the files in a folder are called."""
    if os.name == 'nt':  # where folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
