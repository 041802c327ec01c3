"""Memory allocation of processes that train on a CPU."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = -1, 2**31 - 1


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for the tensors of the next step.

    By default, glibc returns large blocks to the system immediately, which zeroes them when they
    are allocated again: several gigabytes per training step. Afterwards, the process holds the peak
    memory of a step also between steps.

    Returns:
        True if the C library supports it (glibc), False otherwise (macOS, musl, Windows).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def peak_memory_mib() -> float:
    """Return the peak resident memory of this process in MiB."""
    status = Path('/proc/self/status')
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return int(line.split()[1]) / 1024
    import resource  # Not available on Windows.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == 'darwin' else peak / 1024
