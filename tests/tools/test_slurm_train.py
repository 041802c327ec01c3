import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'tools' / 'slurm_train.sh'
OWN = ('GPUS', 'TASKS', 'CPUS_PER_TASK', 'STOP_SECONDS', 'SBATCH_ARGS', 'SRUN_ARGS')


@pytest.fixture
def start(tmp_path):
    """Return a function that runs the script with an ``sbatch`` that prints its arguments."""
    sbatch = tmp_path / 'sbatch'
    sbatch.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    sbatch.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(OWN)}

    def run(**variables):
        return subprocess.run(
            ['bash', SCRIPT, 'part', 'job', 'a config.py', '--amp'],
            capture_output=True,
            text=True,
            check=False,
            env={**kept, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'PYTHON': 'py', **variables},
        )

    return run


def test_arguments_of_sbatch(start):
    done = start(GPUS='16', SBATCH_ARGS='--quiet --time=8:00:00')
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert {'--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8', '--quiet', '--time=8:00:00'} < {
        *words
    }
    assert {'--requeue', '--open-mode=append', '--signal=B:USR1@120'} < {*words}
    # The name of the config, which has a space, is one argument in the shell of the job.
    assert shlex.split(words[-1].removeprefix('--wrap=')) == [
        'exec',
        'bash',
        str(SCRIPT.with_name('slurm_job.sh')),
        '120',
        '143',
        'srun',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        'py',
        '-u',
        str(SCRIPT.with_name('train.py')),
        'a config.py',
        '--launcher',
        'slurm',
        '--amp',
    ]


def test_tasks_without_gpus(start):
    words = start(GPUS='0', TASKS='2', TASKS_PER_NODE='1').stdout.splitlines()
    assert not any(word.startswith('--gres') for word in words)
    assert {'--ntasks=2', '--ntasks-per-node=1'} < {*words}
    assert '--ntasks=1' in start(GPUS='0').stdout.splitlines()


def test_options_of_srun_raise(start):
    done = start(SRUN_ARGS='--time=1')
    assert done.returncode == 2
    assert 'SRUN_ARGS: expected no value, got --time=1' in done.stderr
    assert 'SBATCH_ARGS' in done.stderr


def test_invalid_number_of_gpus(start):
    done = start(GPUS='two')
    assert done.returncode == 2
    assert 'got two' in done.stderr
    assert 'GPUS=0' in done.stderr


@pytest.mark.parametrize('name', ['slurm_train.sh', 'slurm_suite.sh'])
def test_machine_without_slurm(tmp_path, name):
    for program in ('bash', 'dirname'):
        (tmp_path / program).symlink_to(shutil.which(program))
    done = subprocess.run(
        [tmp_path / 'bash', SCRIPT.with_name(name), 'part', 'job', 'x.py'],
        capture_output=True,
        text=True,
        check=False,
        env={'PATH': str(tmp_path)},
    )
    assert done.returncode == 2
    assert "sbatch: expected Slurm's command in PATH" in done.stderr


def test_usage():
    done = subprocess.run(['bash', SCRIPT, 'part'], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'{SCRIPT} PARTITION JOB_NAME CONFIG' in done.stderr
