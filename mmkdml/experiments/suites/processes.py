"""Processes that work on a suite: whether they are still there, how they end, and why they did."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

_STOP_SECONDS = 20.0
_ERROR_LINES = 12


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


def end_run(process: subprocess.Popen, gently: bool) -> None:
    """Ends a run and all processes it has started.

    Args:
        process: The run's.
        gently: Whether it may first save where it is.
    """
    if gently and process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_words(log: Path, start: int, code: int) -> str:
    """Why a run failed: the end of its log, and the signal that ended it, if one did.

    Args:
        log: The file.
        start: Where the run's own part of it begins, in bytes.
        code: The exit code.
    """
    lines = [*_last_lines(log, start), *_ending(code)]
    return '\n'.join(lines) or f'it ended with code {code}'


def _ending(code: int) -> list[str]:
    """What ended a run that could not say so itself."""
    if code >= 0:
        return []
    named = {one.value: one.name for one in signal.Signals}
    why = ', as by a system that is out of memory' if -code == signal.SIGKILL else ''
    return [f'it was ended by {named.get(-code, f"signal {-code}")}{why}']


def _last_lines(path: Path, start: int) -> list[str]:
    """The end of what a log got since ``start``, in bytes."""
    with path.open('rb') as log:
        log.seek(start)
        lines = log.read().decode(errors='replace').splitlines()
    return [line for line in lines if line.strip()][-_ERROR_LINES:]
