"""A training run and a suite for soak.py, each in its own process.

``python tests/soak/runs.py INDEX RUN.json`` executes a run of a suite with a NaN image.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import multiprocessing
import os
import random
import resource
import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'
PROCESSES = multiprocessing.get_context('forkserver')


def run_tool(log: Path, command: list[str], limit: int | None, nan_index: int | None) -> None:
    """Run a tool and append its output to a file.

    Args:
        log: The file.
        command: Path of the tool, followed by its arguments.
        limit: Maximum file size in bytes, to simulate a full disk.
        nan_index: Index of a training sample whose image is set to NaN.
    """
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.stdout.reconfigure(line_buffering=True)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if nan_index is not None:
        from mmkdml.experiments.suites.execution import worker

        set_to_nan(nan_index)
        worker.COMMAND = (__file__, str(nan_index))  # for the processes of suite runs
    sys.argv = command
    runpy.run_path(command[0], run_name='__main__')


def set_to_nan(index: int) -> None:
    """Set the image of a training sample to NaN."""
    from mmkdml.datasets import SplitSegDataset

    prepare = SplitSegDataset.prepare_data

    def prepare_with_nan(self, idx):
        sample = prepare(self, idx)
        if idx == index and not self.test_mode:
            sample['inputs'] = sample['inputs'] * math.nan
        return sample

    SplitSegDataset.prepare_data = prepare_with_nan


def make_data(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Write 16 synthetic training slices, and return ``--cfg-options`` for them and their paths."""
    from mmkdml.datasets import convert_lgg, make_demo_data, read_split

    source = make_demo_data(folder / 'kaggle_3m', patients=6, slices=4, size=64)
    convert_lgg(source, folder / 'splits')
    options = {
        f'{part}_dataloader.dataset.{key}': str(value)
        for part in ('train', 'val', 'test')
        for key, value in (('data_root', source), ('ann_file', folder / 'splits' / f'{part}.csv'))
    }
    return options, [str(source / row.path) for row in read_split(folder / 'splits' / 'train.csv')]


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights of each checkpoint in a folder."""
    from mmkdml.models.checkpoints import load_checkpoint_file

    found = {}
    for path in sorted(folder.glob('*.pth')):
        digest = hashlib.sha256()
        for key, value in sorted(load_checkpoint_file(path)['state_dict'].items()):
            digest.update(key.encode())
            digest.update(value.contiguous().numpy().tobytes())
        found[path.name] = digest.hexdigest()
    return found


def scores(suite: Path, folder: Path) -> str:
    """Return all scores of a suite as CSV."""
    from mmkdml.experiments import SuiteStore, load_suite, read_suite, seed_scores

    loaded = load_suite(suite, folder)
    return seed_scores(read_suite(loaded, SuiteStore.in_folder(folder, False))).to_csv()


class Training:
    """A training run to inject faults into.

    Attributes:
        depth: Number of parents of the process that trains.
        codes: Exit codes after a signal, which may arrive while no handler is installed.
        seconds: Duration without faults.
        reference: Outcome without faults.
    """

    name, depth = 'training', 0
    codes = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}}
    seconds = 0.0
    reference: Any = None

    def __init__(self, folder: Path, options: dict[str, str], epochs: int) -> None:
        self.options = options | {
            'train_cfg.max_epochs': epochs,
            'param_scheduler.T_max': epochs,
            'default_hooks.logger.interval': 1,
        }

    def command(self, folder: Path, workers: int) -> list[str]:
        options = self.options | {'train_dataloader.num_workers': workers}
        settings = [f'{key}={value}' for key, value in options.items()]
        flags = ('--work-dir', folder, '--resume', '--cfg-options')
        return [str(word) for word in (ROOT / 'tools/train.py', CONFIG, *flags, *settings)]

    def outcome(self, folder: Path) -> Any:
        return in_process(digests, folder)

    def errors(self, folder: Path) -> list[str]:
        """Return texts other than the output that must contain the cause of a failure."""
        return []


class Suite(Training):
    """A suite to inject faults into: a teacher, and a classroom that learns from it."""

    name, depth = 'suite', 1
    codes = {signal.SIGKILL: {-9}, signal.SIGTERM: {1, -15}}

    def __init__(self, folder: Path, options: dict[str, str], epochs: int) -> None:
        super().__init__(folder, options, epochs)
        self.options['train_dataloader.num_workers'] = 2  # the settings of a suite are fixed
        self.path = folder / 'small.py'
        self.path.write_text(
            'from mmkdml.experiments import variant_runs\n'
            f'title, measures, seeds = "Small", ["IoU", "F1"], [0]\noptions = {self.options}\n'
            'runs = [dict(name="teacher", config="configs/demo/teacher_demo.py"),\n'
            '        variant_runs("configs/demo/kdml_v3_demo.py", "teacher", "Table 4")[5]]\n'
        )

    def command(self, folder: Path, workers: int) -> list[str]:
        action = 'resume' if (folder / 'suite.db').exists() else 'run'
        words = (ROOT / 'tools/suite.py', action, self.path, '--work-dir', folder)
        return [str(word) for word in words]

    def outcome(self, folder: Path) -> Any:
        return in_process(scores, self.path, folder)

    def errors(self, folder: Path) -> list[str]:
        if not (folder / 'suite.db').exists():
            return ['']
        with contextlib.closing(sqlite3.connect(folder / 'suite.db')) as database:
            rows = database.execute("SELECT error FROM runs WHERE state = 'failed'").fetchall()
        return ['\n'.join(error for (error,) in rows)]


def in_process(function: Any, *args: Any) -> Any:
    with PROCESSES.Pool(1) as pool:
        return pool.apply(function, args)


class Attempt:
    """A running tool.

    Args:
        log, command, limit, nan_index: See :func:`run_tool`.
        depth: See :class:`Training`.
    """

    def __init__(
        self, log: Path, command: list[str], limit: int | None, nan_index: int | None, depth: int
    ) -> None:
        self.log, self.depth = log, depth
        self.process = PROCESSES.Process(target=run_tool, args=(log, command, limit, nan_index))
        self.process.start()

    def wait(self, seconds: float) -> int | None:
        """Wait for the process to exit. Return its exit code, or None after ``seconds``."""
        self.process.join(seconds)
        return self.process.exitcode

    def send(self, number: int, group: bool = False) -> None:
        """Send a signal to the process, or to its process group, which includes workers."""
        if self.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.process.pid, number)

    def kill(self, number: int, worker: bool, rng: random.Random, seconds: float) -> None:
        """Wait until the training process or a data loader worker exists, and send it a signal."""
        end = time.monotonic() + seconds
        before: list[int] = []
        while self.wait(0.05) is None and time.monotonic() < end:
            now = self._training(worker)
            # A program that is just starting still has the command line of its parent.
            if found := [pid for pid in now if pid in before or not worker]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(found), number)
                return
            before = now

    def _training(self, worker: bool) -> list[int]:
        table = processes()
        found = [self.process.pid]
        for _ in range(self.depth):
            found = [pid for pid, (parent, _) in table.items() if parent in found]
        if not worker:
            return found
        # Workers are forks and have the command line of their parent, unlike programs it calls.
        commands = {pid: table[pid][1] for pid in found if pid in table}
        return [pid for pid, (parent, line) in table.items() if commands.get(parent) == line]

    def output(self) -> str:
        return self.log.read_text(errors='replace') if self.log.exists() else ''


def processes() -> dict[int, tuple[int, str]]:
    """Return the parent and command line of every process by process id."""
    listed = subprocess.run(
        ['ps', '-A', '-ww', '-o', 'pid=,ppid=,args='], capture_output=True, text=True, check=False
    ).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return {int(pid): (int(parent), ''.join(words)) for pid, parent, *words in rows}


if __name__ == '__main__':
    from mmkdml import apis
    from mmkdml.experiments.suites.execution import execute

    set_to_nan(int(sys.argv.pop(1)))
    apis.run_tool(execute.main)
