"""Lock against two trainings in one folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
import warnings
from pathlib import Path
from typing import Any

from mmkdml.files import kind_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = '.lock'
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
# The holder writes its name shortly after it has acquired the lock.
_READ_ATTEMPTS, _READ_SECONDS = 20, 0.05
# File descriptor and process id by folder; forked processes do not inherit locks.
_held: dict[Path, tuple[int, int]] = {}


def lock_folder(folder: str | Path) -> None:
    """Lock a folder for this process until :func:`unlock_folder` or its exit.

    The lock is a POSIX lock on ``.lock``: the system releases it whenever the process ends, and
    forked data loader workers do not keep it. A file system without locks gives a warning. Locking
    a folder twice in the same process has no effect.

    Args:
        folder: The folder, created if needed.

    Raises:
        ValueError: If another process holds the lock, or ``.lock`` is not a regular file.
        OSError: If the folder is not writable.
    """
    if holds_lock(folder):
        return
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    if fcntl is None:
        warnings.warn(f'{folder} is not locked: not supported on {os.name}', stacklevel=2)
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise ValueError(_not_regular(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(_not_regular(path))
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held[folder] = handle, os.getpid()
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            raise ValueError(
                f'{folder} is in use by {_holder(handle)}. Wait until it ends, stop it, or choose '
                'another --work-dir'
            ) from error
        warnings.warn(
            f'{folder} is not locked: its file system does not support locks ({error.strerror}). '
            'Do not start two trainings in it',
            stacklevel=2,
        )
    finally:
        if not holds_lock(folder):
            os.close(handle)
    if holds_lock(folder):
        mine = dict(host=socket.gethostname(), process=os.getpid(), since=time.ctime())
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(mine).encode(), 0)


def unlock_folder(folder: str | Path) -> None:
    """Unlock a folder if this process has locked it."""
    folder = Path(folder).resolve()
    if holds_lock(folder):
        handle, _ = _held.pop(folder)
        os.ftruncate(handle, 0)
        os.close(handle)  # Releases the lock.


def holds_lock(folder: str | Path) -> bool:
    """Return True if this process has locked a folder."""
    return _held.get(Path(folder).resolve(), (0, 0))[1] == os.getpid()


def _not_regular(path: Path) -> str:
    return f'{path}: expected a regular file, got {kind_of(path)}. Remove it'


def _holder(handle: int) -> str:
    """Describe the process that holds the lock, unless the file still names a killed process."""
    for _ in range(_READ_ATTEMPTS):
        try:
            holder = json.loads(os.pread(handle, 1000, 0))
            if not _has_ended(holder):
                return 'process {process} on {host} (since {since})'.format_map(holder)
        except (ValueError, TypeError, KeyError):
            pass
        time.sleep(_READ_SECONDS)
    return 'another process'


def _has_ended(holder: dict[str, Any]) -> bool:
    if holder['host'] != socket.gethostname():
        return False
    try:
        os.kill(holder['process'], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
