"""Who works on a suite: the process, on which machine, and whether it is still there."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path


def this_host() -> str:
    """Name of the machine, with the process namespace where there are such (containers)."""
    try:
        return f'{socket.gethostname()}/{os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return socket.gethostname()


def is_dead(worker: str | None) -> bool:
    """Whether a worker was a process of this machine that is there no more.

    One that has ended and whose parent has not looked yet (a zombie) is no more, too: in a
    container the parent may never look.
    """
    host, _, rest = (worker or '').rpartition('#')
    process = rest.partition('.')[0]
    if host != this_host() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    with suppress(OSError):  # macOS has no /proc
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    return False
