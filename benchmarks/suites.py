"""CPU time and peak memory of the commands of a suite, on a database with fabricated results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prettytable import PrettyTable

from benchmarks.startup import ROOT
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER

SEEDS, METHODS, EPOCHS = 5, 6, 50
GROUPS, IMAGES = 25, 100  # of the test split
_CONFIG = 'configs/kdml/r50_r18x2_v3_lgg.py'
_KDML = (TEACHER, 'student_1', 'student_2', ENSEMBLE)
_METRICS = (
    *('foreground/IoU', 'foreground/F1', 'background/IoU', 'calibration/ECE'),
    *('calibration/ECE_near_foreground', 'fidelity/IoU', 'fidelity/agreement', 'fidelity/KL'),
)
COMMANDS = {
    'status': [],
    'table': [],
    'table --format csv': ['--format', 'csv'],
    'claims': [],
    'power': [],
    'report': [],
}
# Runs a tool and writes its CPU seconds and peak memory to a file, also if it fails. Importing the
# function from its package would import torch, which takes more than most tools.
_MEMORY = ROOT / 'mmkdml/engine/memory.py'
_MEASURED = """
import atexit, runpy, sys, time
out, memory, *sys.argv = sys.argv[1:]
def record():
    seconds = time.process_time()
    peak = runpy.run_path(memory)['peak_memory_mib']()
    open(out, 'w').write(f'[{seconds}, {peak}]')
atexit.register(record)
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@dataclass(frozen=True)
class CommandCost:
    """Cost of one command in a process of its own.

    Attributes:
        seconds: User and system CPU seconds.
        memory: Peak resident memory in MiB.
        size: Size of the output in MB: of the file that a report writes, otherwise of stdout.
    """

    seconds: float
    memory: float
    size: float


def measure_suites(runs: int, seconds: float = 600.0) -> dict[str, CommandCost | None]:
    """Fabricate a finished suite and measure its commands.

    Args:
        runs: Number of runs, at least 100: variants of 20 runs with five seeds each.
        seconds: Time limit of a command.

    Returns:
        Costs by command; None for one that exceeded the limit. ``'finish a run'`` is the mean of
        fabricating, claiming and finishing all runs.

    Raises:
        ValueError: If ``runs`` is too small, or a command fails.
    """
    variants = round(runs / (SEEDS * (14 + METHODS)))
    if variants < 1:
        raise ValueError(f'Invalid runs: expected at least {SEEDS * (14 + METHODS)}, got {runs}')
    with tempfile.TemporaryDirectory() as folder:
        suite = write_suite(Path(folder), variants)
        costs: dict[str, CommandCost | None] = {}
        fabricated = run_measured(Path(folder), [str(Path(__file__)), str(suite)], 3600.0)
        assert fabricated is not None
        number = variants * SEEDS * (14 + METHODS)
        costs['finish a run'] = replace(fabricated, seconds=fabricated.seconds / number)
        for name, flags in COMMANDS.items():
            command = [str(ROOT / 'tools/suite.py'), name.split()[0], str(suite)]
            work_dir = ['--work-dir', str(suite.parent / 'runs')]
            cost = run_measured(Path(folder), [*command, *work_dir, *flags], seconds)
            page = suite.parent / 'runs/report.html'
            if cost and name == 'report':
                cost = replace(cost, size=page.stat().st_size / 1e6)
            costs[name] = cost
    return costs


def format_suites(costs: Mapping[str, CommandCost | None]) -> str:
    """Format the costs as a table."""
    table = PrettyTable(['command', 'CPU seconds', 'peak MiB', 'output MB'], align='r')
    table.align['command'] = 'l'
    for name, cost in costs.items():
        cells = ['not finished', '', '']
        if cost is not None:
            cells = [f'{cost.seconds:.3g}', f'{cost.memory:.0f}', f'{cost.size:.2f}']
        table.add_row([name, *cells])
    return table.get_string()


def write_suite(folder: Path, variants: int) -> Path:
    """Write a suite file with 20 runs in each variant: networks, modes and styles, and methods."""
    from mmkdml.experiments import variant_runs

    runs = [dict(name=name, config=_CONFIG) for name in ('r50', 'r18')]
    runs += [
        dict(name=run['name'], config=_CONFIG, teacher=run['teacher'])
        for run in variant_runs(_CONFIG, 'r50')
    ]
    runs += [dict(name=f'method_{index}', config=_CONFIG) for index in range(METHODS)]
    content = dict(
        title='Fabricated',
        measures=['IoU', 'F1'],
        seeds=list(range(SEEDS)),
        variants={f'v{index:03}': {'model.temperature': index + 1} for index in range(variants)},
        runs=runs,
    )
    path = folder / 'fabricated.json'
    path.write_text(json.dumps(content))
    return path


def fabricate(path: Path) -> None:
    """Register, claim and finish all runs of a suite with fabricated results."""
    from mmkdml.experiments import SuiteStore, load_suite
    from mmkdml.experiments.run_spec import run_config, settings_text
    from mmkdml.experiments.suites.serialization import deserialize_result, serialize_result

    suite = load_suite(path, path.parent / 'runs')
    config = run_config(suite.runs[0])
    text, settings = config.dump(), json.loads(settings_text(config))
    store = SuiteStore.in_folder(suite.work_dir)
    by_run = {}
    for run in suite.runs:
        settings['model'] |= _model(run.name.rpartition('/')[2])
        by_run[run.name] = json.dumps(settings, indent=1)
    store.register(suite.runs, by_run)
    rng = np.random.default_rng(0)
    for state in store.states():
        name = state.name.rpartition('/')[2]
        members = (PLAIN,) if name[0] == 'r' else _KDML[name.startswith('ml_') :]
        own = text.replace('seed=0', f'seed={state.seed}') + f'# {state.name}\n'
        result = serialize_result(*_result(rng, members, state.key, own))
        if not store.claim(state, 'worker', time.time()):
            raise ValueError(f'Invalid state of {state.key}: expected waiting, got {state.state}')
        _finish(store, state, result, deserialize_result)


def _finish(store: Any, run: Any, result: bytes, deserialize: Any) -> None:
    from mmkdml.experiments.suites.summaries import summarize_result

    # A worker does the same.
    store.finish(run, 'worker', result, 60.0, summarize_result(*deserialize(result)))


def _model(name: str) -> dict[str, Any]:
    mode, _, style = name.rpartition('_')
    if mode == 'method':
        return dict(mode='', style='', members={})
    return dict(mode=mode, style=style, members=None)


def _result(
    rng: np.random.Generator, members: tuple[str, ...], key: str, text: str
) -> tuple[Any, ...]:
    from mmkdml.statistics.records import Measurement

    measured = {}
    for name in ('best', 'last'):
        rows = len(members) * IMAGES
        truth = rng.integers(50, 500, IMAGES)
        hits = rng.binomial(np.tile(truth, len(members)), 0.7 + 0.1 * rng.random())
        cases = pd.DataFrame(
            dict(
                member=np.repeat(members, IMAGES),
                id=[f'TCGA_CS_{image:04}' for image in range(IMAGES)] * len(members),
                group=[f'TCGA_CS_{image % GROUPS:04}' for image in range(IMAGES)] * len(members),
                label=1,
                tp=hits,
                fp=rng.integers(0, 100, rows),
                fn=np.tile(truth, len(members)) - hits,
            )
        )
        metrics = {
            f'{member}/{metric}': 100 * rng.random() for member in members for metric in _METRICS
        }
        measured[name] = Measurement(metrics, cases)
    logged = ['loss', 'lr', *(f'{one}.loss_from_teacher.features' for one in members), *metrics]
    curves = pd.DataFrame(
        dict(
            epoch=np.repeat(np.arange(1, EPOCHS + 1), len(logged)),
            key=logged * EPOCHS,
            value=rng.random(EPOCHS * len(logged)),
        )
    )
    metadata = dict(
        config=_CONFIG, config_text=text, seconds=60.0, device='CPU',
        command=f'python tools/train.py {_CONFIG} --seed 0 --work-dir work_dirs/suites/{key}',
        versions=dict(python='3.11', torch='2.13.0', mmkdml='0.1.0'), input_size=[256, 256],
        splits={part: dict(images=IMAGES, groups=GROUPS) for part in ('train', 'val', 'test')},
        members={one: dict(parameters=10**7, flops=10**9) for one in members if one != ENSEMBLE},
        checkpoints=dict(best=40, last=EPOCHS),
    )  # fmt: skip
    return measured, curves, metadata


def run_measured(folder: Path, command: list[str], seconds: float) -> CommandCost | None:
    """Run Python and measure it; None if it exceeds the time limit.

    Raises:
        ValueError: If it fails.
    """
    costs, output = folder / 'costs.json', folder / 'output'
    with output.open('w') as stdout:
        try:
            done = subprocess.run(
                [sys.executable, '-c', _MEASURED, str(costs), str(_MEMORY), *command],
                cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)},
                stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        raise ValueError(f'{" ".join(command)} failed:\n{done.stderr}')
    used, memory = json.loads(costs.read_text())
    return CommandCost(used, memory, output.stat().st_size / 1e6)


if __name__ == '__main__':
    fabricate(Path(sys.argv[1]))
