import os
import shlex
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'tools' / 'slurm_suite.sh'


@pytest.fixture
def start(tmp_path):
    """Return a function that runs the script with an ``sbatch`` that prints its arguments."""
    sbatch = tmp_path / 'sbatch'
    sbatch.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    sbatch.chmod(0o755)

    def run(**variables):
        done = subprocess.run(
            ['bash', SCRIPT, 'part', 'job', 'a suite.py', '--storage', 'postgresql://x/y'],
            capture_output=True,
            text=True,
            check=False,
            env={'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'PYTHON': 'py', **variables},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_arguments_of_sbatch(start):
    words = start(WORKERS='4', GPUS='2', STOP_SECONDS='60', SBATCH_ARGS='--quiet --mem=1G')
    assert {'--array=1-4', '--gres=gpu:2', '--requeue', '--quiet', '--mem=1G'} < {*words}
    assert {'--open-mode=append', '--signal=B:USR1@60'} < {*words}
    # The name of the suite, which has a space, is one argument in the shell of the job.
    assert shlex.split(words[-1].removeprefix('--wrap=')) == [
        'exec',
        'bash',
        str(SCRIPT.with_name('slurm_job.sh')),
        '60',
        '1',
        'py',
        '-u',
        str(SCRIPT.with_name('suite.py')),
        'run',
        'a suite.py',
        '--processes',
        '2',
        '--storage',
        'postgresql://x/y',
    ]


def test_workers_without_gpus(start):
    words = start(GPUS='0')
    assert not any(word.startswith('--gres') for word in words)
    assert '--processes 1' in words[-1]


def test_usage():
    done = subprocess.run(['bash', SCRIPT, 'part'], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'{SCRIPT} PARTITION JOB_NAME SUITE' in done.stderr
