"""CPU time of imports, of every tool with ``--help``, and of ``suite.py status``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prettytable import PrettyTable

from mmkdml.profiling import interleaved_medians

ROOT = Path(__file__).parents[1]
SUITE = ROOT / 'suites' / 'mini_segmentation.py'
TORCH = 'import torch'
IMPORTS = (TORCH, 'import mmkdml', 'import mmkdml.models')


@dataclass(frozen=True)
class StartupCost:
    """CPU time of a new process.

    Attributes:
        seconds: User and system CPU seconds, median over the rounds.
        added: For imports: seconds beyond those of ``import torch``.
    """

    seconds: float
    added: float | None = None


def measure_startup(rounds: int) -> dict[str, StartupCost]:
    """Measure interleaved processes: imports, every tool with ``--help``, ``suite.py status``.

    Args:
        rounds: Measured processes of each kind, >= 1, after one that fills the file cache.

    Returns:
        Costs by name, ``'import torch'`` first.

    Raises:
        ValueError: If ``rounds`` is below 1, or a process fails.
    """
    if rounds < 1:
        raise ValueError(f'Invalid rounds: expected at least 1, got {rounds}')
    with tempfile.TemporaryDirectory() as folder:
        commands = {name: ['-c', f'{TORCH}; {name}'] for name in IMPORTS}
        for path in sorted((ROOT / 'tools').rglob('*.py')):
            name = path.relative_to(ROOT / 'tools').as_posix()
            commands[f'{name} --help'] = [str(path), '--help']
        _register(folder)
        status = [str(ROOT / 'tools' / 'suite.py'), 'status', str(SUITE), '--work-dir', folder]
        commands['suite.py status'] = status
        seconds = interleaved_medians(
            {name: partial(cpu_seconds, command) for name, command in commands.items()}, rounds
        )
    return {
        name: StartupCost(value, value - seconds[TORCH] if name in IMPORTS[1:] else None)
        for name, value in seconds.items()
    }


def format_startup(costs: Mapping[str, StartupCost]) -> str:
    """Format the costs as a table."""
    table = PrettyTable(['process', 'CPU seconds', f'beyond {TORCH}'], align='r')
    table.align['process'] = 'l'
    for name, cost in costs.items():
        added = '' if cost.added is None else f'{cost.added:.2f}'
        table.add_row([name, f'{cost.seconds:.2f}', added])
    return table.get_string()


def cpu_seconds(arguments: Sequence[str]) -> float:
    """Run Python and return its user and system CPU seconds, including those of its children.

    Raises:
        ValueError: If it fails.
    """
    with tempfile.TemporaryFile('w+') as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise ValueError(
                f'python {" ".join(arguments)} failed with exit code {process.returncode}:\n'
                f'{errors.read()}'
            )
    return usage.ru_utime + usage.ru_stime


def _register(folder: str) -> None:
    """Create the database of a suite with pending runs."""
    from mmkdml.experiments import SuiteStore, load_suite

    runs = load_suite(SUITE, folder).runs
    SuiteStore.in_folder(folder).register(runs, {run.name: '' for run in runs})
