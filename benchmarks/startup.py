"""CPU time of imports, tools with ``--help``, ``suite.py status`` and the start of a training."""

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
IMPORTS = (TORCH, 'import mmengine.runner', 'import mmkdml', 'import mmkdml.models')
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'
FIRST_STEP = f'train.py {CONFIG.name}, until its first step'
# Runs a script and exits before the first step.
_UNTIL_STEP = """
import os, runpy, sys
from mmkdml.packages import when_imported
def stop_early(module):
    call = module.Runner.call_hook
    def call_hook(self, name, **arguments):
        if name == 'before_train_iter':
            os._exit(0)
        call(self, name, **arguments)
    module.Runner.call_hook = call_hook
when_imported('mmengine.runner.runner', stop_early)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
sys.exit('The training ended without a step')
"""


@dataclass(frozen=True)
class StartupCost:
    """CPU time of a new process.

    Attributes:
        seconds: User and system CPU seconds, median over the rounds.
        added: For imports and the start of a training: seconds beyond those of ``import torch``.
    """

    seconds: float
    added: float | None = None


def measure_startup(rounds: int) -> dict[str, StartupCost]:
    """Measure interleaved processes of each kind.

    These are imports, every tool with ``--help``, ``suite.py status``, and a training of the demo's
    config on synthetic slices, from the start of the process to its first step.

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
        commands[FIRST_STEP] = _training(Path(folder))
        seconds = interleaved_medians(
            {name: partial(cpu_seconds, command) for name, command in commands.items()}, rounds
        )
    compared = (*IMPORTS[1:], FIRST_STEP)
    return {
        name: StartupCost(value, value - seconds[TORCH] if name in compared else None)
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


def _training(folder: Path) -> list[str]:
    """Generate slices, and return the arguments of Python that start a training on them."""
    from mmkdml.datasets.converters import convert_lgg
    from mmkdml.datasets.synthetic import make_demo_data

    source, splits = folder / 'kaggle_3m', folder / 'splits'
    make_demo_data(source, patients=12, slices=4)
    convert_lgg(source, splits)
    options = [
        f'{part}_dataloader.dataset.{key}={value}'
        for part in ('train', 'val', 'test')
        for key, value in (('data_root', source), ('ann_file', splits / f'{part}.csv'))
    ]
    train = [str(ROOT / 'tools' / 'train.py'), str(CONFIG), '--fast', '--quiet']
    work_dir = ['--overwrite', '--work-dir', str(folder / 'run')]
    return ['-c', _UNTIL_STEP, *train, *work_dir, '--cfg-options', *options]


def _register(folder: str) -> None:
    """Create the database of a suite with pending runs."""
    from mmkdml.experiments import SuiteStore, load_suite

    runs = load_suite(SUITE, folder).runs
    SuiteStore.in_folder(folder).register(runs, {run.name: '' for run in runs})
