"""Memory of a process that trains on a CPU."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# Of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = -1, 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets the C library keep the memory that tensors free, for the next step's tensors.

    glibc gives large blocks back to the system as soon as they are free, and the system fills them
    with zeros when they are asked for again, which is some gigabytes in every training step. Memory
    in use between steps is then what a step needs at most.

    Returns:
        Whether the C library is one that can be told so (glibc; not macOS, musl or Windows).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def peak_memory_mib() -> float:
    """Highest resident memory of this process so far, in MiB, as the operating system marks it."""
    status = Path('/proc/self/status')
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return int(line.split()[1]) / 1024
    import resource  # not there on Windows, which trains without this mark

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == 'darwin' else peak / 1024
