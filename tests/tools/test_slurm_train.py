import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'tools' / 'slurm_train.sh'


def test_arguments_of_srun(tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    done = subprocess.run(
        ['bash', SCRIPT, 'part', 'job', 'a config.py', '--amp'],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            'PATH': f'{tmp_path}:{os.environ["PATH"]}',
            'GPUS': '16',
            'PYTHON': 'py',
            'SRUN_ARGS': '--quiet --mem=1G',
        },
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert {'--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8', '--quiet', '--mem=1G'} < {*words}
    assert words[-7:] == [
        'py',
        '-u',
        str(SCRIPT.with_name('train.py')),
        'a config.py',
        '--launcher',
        'slurm',
        '--amp',
    ]


def test_usage():
    done = subprocess.run(['bash', SCRIPT, 'part'], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'{SCRIPT} PARTITION JOB_NAME CONFIG' in done.stderr
