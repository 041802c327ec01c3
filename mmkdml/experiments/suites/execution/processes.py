"""Processes of workers and runs: liveness checks, termination and failure reasons."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import uuid
from contextlib import suppress
from pathlib import Path

_STOP_SECONDS = 20.0
_BOOT = Path('/proc/sys/kernel/random/boot_id')
_ERROR_LINES = 12


def this_host() -> str:
    """Return the name of this machine, its boot, and, on Linux, its PID namespace (container).

    The names of cloned machines may be equal; their boot identifiers differ.
    """
    parts = [socket.gethostname()[:100]]
    with suppress(OSError):
        parts.append(os.readlink('/proc/self/ns/pid'))
    try:
        parts.append(_BOOT.read_text().strip())
    except OSError:  # macOS: the address of the network card; random without one
        parts.append(f'{uuid.getnode():x}')
    return '/'.join(parts)


def is_dead(worker: str | None) -> bool:
    """Return whether a worker ran on this machine and its process has exited.

    Zombies count as exited, because their parent may never reap them in a container. Names of
    earlier versions, without a boot identifier, are never those of this machine.
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


def exit_when_stdin_closes() -> None:
    """Exit this process as soon as its stdin is closed, i.e., when its parent exits."""

    def wait() -> None:
        # A thread that blocks in sys.stdin would disturb the shutdown of Python.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def stop_run(process: subprocess.Popen, gracefully: bool) -> None:
    """Stop a run and all its subprocesses.

    Args:
        process: Process of the run, the leader of its process group.
        gracefully: Send SIGTERM first and wait, so that the run can save a checkpoint.
    """
    if gracefully and process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def failure_reason(log: Path, start: int, code: int) -> str:
    """Return why a run failed: the last lines of its log, and the signal that killed it.

    Args:
        log: Log file; earlier attempts may have written to it, too.
        start: Size of the log in bytes when this attempt started.
        code: Exit code; negative for a signal.
    """
    with log.open('rb') as file:
        file.seek(start)
        lines = file.read().decode(errors='replace').splitlines()
    lines = [line for line in lines if line.strip()][-_ERROR_LINES:]
    if code < 0:
        names = {one.value: one.name for one in signal.Signals}
        hint = ' (often out of memory)' if -code == signal.SIGKILL else ''
        lines.append(f'killed by {names.get(-code, f"signal {-code}")}{hint}')
    return '\n'.join(lines) or f'exit code {code}'
