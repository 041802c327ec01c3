import os
import shlex
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'tools' / 'slurm_suite.sh'


def test_arguments_of_sbatch(tmp_path):
    sbatch = tmp_path / 'sbatch'
    sbatch.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    sbatch.chmod(0o755)
    done = subprocess.run(
        ['bash', SCRIPT, 'part', 'job', 'a suite.py', '--storage', 'postgresql://x/y'],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            'PATH': f'{tmp_path}:{os.environ["PATH"]}',
            'WORKERS': '4',
            'GPUS': '2',
            'PYTHON': 'py',
            'SBATCH_ARGS': '--quiet --mem=1G',
        },
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert {'--array=1-4', '--gres=gpu:2', '--requeue', '--quiet', '--mem=1G'} < {*words}
    # The name of the suite, which has a space, is one argument in the shell of the job.
    assert shlex.split(words[-1].removeprefix('--wrap=')) == [
        'exec',
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


def test_usage():
    done = subprocess.run(['bash', SCRIPT, 'part'], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'{SCRIPT} PARTITION JOB_NAME SUITE' in done.stderr
