"""Training with torchrun, whose processes are killed."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import ROOT, VARIABLES
from slurm import wait_until

SCRIPT = ROOT / 'tools' / 'dist_train.sh'
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='gloo is for machines without a GPU'
)


def start(folder, config, **variables):
    log = (folder.parent / f'{folder.name}.log').open('w')
    return subprocess.Popen(
        ['bash', SCRIPT, config, '2', '--work-dir', folder],
        stdout=log,
        stderr=log,
        env={**os.environ, **VARIABLES, **variables},
    )


def log_of(folder):
    return (folder.parent / f'{folder.name}.log').read_text()


def workers(launcher):
    """Return the training processes of torchrun by their rank."""
    found = {}
    children = Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text()
    for pid in children.split():
        with suppress(OSError):  # it has ended
            variables = Path(f'/proc/{pid}/environ').read_text().split('\0')
            found |= {one: int(pid) for one in variables if one.startswith('RANK=')}
    return found


def test_killed_process_is_restarted_and_the_run_ends_identically(
    small_config, two_processes, compare, tmp_path
):
    """Two trainings at the same time do not share a port; one of them is disturbed twice."""
    config, slow = small_config
    slow.touch()
    killed, other = tmp_path / 'killed', tmp_path / 'other'
    launchers = [start(folder, config, MAX_RESTARTS='2') for folder in (killed, other)]
    try:
        for rank, restarts in (('RANK=1', 1), ('RANK=0', 2)):
            text = f'{restarts - 1} restarts'
            newest = killed / f'epoch_{restarts}.pth'
            wait_until(
                newest.exists, lambda text=text: f'checkpoint after {text}: {log_of(killed)}'
            )
            before = workers(launchers[0])
            os.kill(before[rank], signal.SIGKILL)
            wait_until(
                lambda before=before: not {*before.values()} & {*workers(launchers[0]).values()},
                lambda: f'restart: {log_of(killed)}',
            )
        slow.unlink()
        assert [one.wait(500) for one in launchers] == [0, 0], log_of(killed) + log_of(other)
    finally:
        slow.unlink(missing_ok=True)
        for one in launchers:
            one.terminate()
            one.wait()
    assert log_of(killed).count('was restarted: resuming') == 2
    compare(killed, two_processes)
    compare(other, two_processes)
