"""Atomic writing, strict JSON, hashes and types of files."""

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
    """Write a file completely or not at all; see :func:`atomic_path`."""
    with atomic_writer(path) as file:
        file.write(content)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a seekable file object whose content becomes a file; see :func:`atomic_path`."""
    with atomic_path(path) as part, part.open('xb') as file:
        yield file


@contextmanager
def atomic_path(path: str | Path, suffix: str = '', sync: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces a file when the block ends.

    Readers see the previous content or the new one, also after a power failure. A process that is
    killed leaves ``.<name>.<process id>.<random>.part``; see :func:`remove_partial_files`.

    Args:
        path: File to write, in an existing folder.
        suffix: Last part of the temporary name, for libraries that derive a format from it.
        sync: Flush the file to the disk before it is renamed, so that it survives a power failure.

    Raises:
        OSError: If writing fails, such as on a full disk. The previous content is unchanged, as
            after any error.
    """
    path = Path(path)
    name = os.fsencode(path.name)[:200].decode(errors='ignore')  # limit of file names: 255 bytes
    # Process ids repeat on other machines and in containers.
    part = path.with_name(f'.{name}.{os.getpid()}.{secrets.token_hex(4)}.part{suffix}')
    try:
        yield part
        if sync:
            _sync(part, os.O_RDWR)
        os.replace(part, path)
    except OSError as error:
        if error.filename not in (None, str(part)):
            raise
        message = f'{error.strerror or error} (the previous file is unchanged)'
        raise OSError(error.errno, message, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    if sync and os.name != 'nt':  # Windows cannot open folders
        _sync(path.parent, os.O_RDONLY)


def remove_partial_files(folder: Path, name: str = '*') -> None:
    """Delete the temporary files that killed processes left in a folder.

    Args:
        folder: Folder that no other process is writing to.
        name: Glob pattern of the names of the final files.
    """
    for part in folder.glob(f'.{name}.*.part'):
        part.unlink(missing_ok=True)


def json_text(content: Any, indent: int | None = None) -> str:
    """Format values as strict JSON, with null for NaN and infinity, which JSON does not have.

    Args:
        content: Dicts, lists, tuples, strings and numbers, also NumPy and PyTorch numbers and
            arrays.
        indent: Spaces per level. Default: everything on one line.

    Raises:
        TypeError: If a value is of another type.
    """
    return json.dumps(json_values(content), indent=indent, allow_nan=False)


def json_values(value: Any) -> Any:
    """Convert values to plain numbers and lists, with None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: json_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, 'tolist'):  # NumPy and PyTorch
        return json_values(value.tolist())
    return value


def reserve(file: Any, size: int) -> None:
    """Give a file at least a size, with space on the disk where the system supports it.

    Writing to a memory-mapped file on a full disk would kill the process.

    Args:
        file: Binary file, open for writing.
        size: Number of bytes.

    Raises:
        OSError: If the disk has too little space.
    """
    if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(max(size, os.fstat(file.fileno()).st_size))


def own_file(root: str | Path, *parts: str | Path) -> Path:
    """Return the path of a file below a folder, such that writing it changes no file elsewhere.

    Symbolic links below the folder (not their targets), FIFOs and devices on the path are removed
    with a warning. Missing folders are created. A path outside ``root``, such as an absolute one,
    was chosen by the user and is returned unchanged.

    Args:
        root: The folder, or a link to it.
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
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_regular(path: Path) -> bool:
    """Return whether a path is a regular file and not a link to one."""
    return path.is_file() and not path.is_symlink()


def kind_of(path: Path) -> str:
    """Describe the type of a path that is not a regular file."""
    if path.is_symlink():
        return f'a link to {path.readlink()}'
    return 'a folder' if path.is_dir() else 'a special file'


def _sync(path: Path, flags: int) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
