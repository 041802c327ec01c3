"""The script of a batch job, with commands of Slurm that record their arguments."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'tools' / 'slurm_job.sh'
STOPPED = 7


@pytest.fixture
def job(tmp_path):
    """Return a function that starts a job whose command has begun.

    The command prints each signal and exits with ``code`` after it.
    """
    for name in ('scontrol', 'scancel'):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/calls\n')
        program.chmod(0o755)
    processes = []

    def start(code, seconds=300, command='train', **variables):
        end = f'exit {code}' if code is not None else ':'
        (tmp_path / command).write_text(
            f'#!/bin/bash\ntrap "echo TERM; {end}" TERM\necho ready\nwhile :; do sleep 0.05; done\n'
        )
        (tmp_path / command).chmod(0o755)
        process = subprocess.Popen(
            ['bash', SCRIPT, str(seconds), str(STOPPED), command],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                **{key: value for key, value in os.environ.items() if 'SLURM' not in key},
                'PATH': f'{tmp_path}:{os.environ["PATH"]}',
                'SLURM_JOB_ID': '17',
                **variables,
            },
        )
        processes.append(process)
        assert process.stdout.readline() == 'ready\n'
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def calls(folder):
    path = folder / 'calls'
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ('variables', 'name'),
    [
        ({}, '17'),
        # Otherwise the whole array would be requeued.
        (dict(SLURM_ARRAY_JOB_ID='17', SLURM_ARRAY_TASK_ID='3'), '17_3'),
    ],
)
def test_job_near_its_time_limit_is_requeued(job, tmp_path, variables, name):
    process = job(STOPPED, **variables)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == STOPPED
    assert calls(tmp_path) == [f'scontrol requeue {name}']


def test_command_that_cannot_handle_the_signal_yet_is_requeued(job, tmp_path):
    process = job(128 + signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert calls(tmp_path) == ['scontrol requeue 17']


def test_tasks_of_srun_are_signaled_by_slurm(job, tmp_path):
    process = job(STOPPED, command='srun')
    process.send_signal(signal.SIGUSR1)
    while not calls(tmp_path):
        assert process.poll() is None
    process.send_signal(signal.SIGALRM)  # it did not stop
    process.wait(60)
    assert calls(tmp_path) == ['scancel --signal=TERM 17', 'scontrol requeue 17']


def test_command_that_does_not_stop_is_requeued_before_the_time_limit(job, tmp_path):
    process = job(None, seconds=1)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 128 + signal.SIGALRM
    assert calls(tmp_path) == ['scontrol requeue 17']


@pytest.mark.parametrize('code', [0, 1])
def test_command_that_ends_near_the_time_limit_is_not_requeued(job, tmp_path, code):
    process = job(code)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == code
    assert calls(tmp_path) == []


def test_canceled_job_waits_for_its_command_and_is_not_requeued(job, tmp_path):
    process = job(STOPPED)
    os.killpg(process.pid, signal.SIGTERM)  # as scancel does
    assert process.wait(60) == STOPPED
    assert process.stdout.read() == 'TERM\n'
    assert calls(tmp_path) == []


def test_number_of_attempts_is_limited(job, tmp_path):
    process = job(STOPPED, SLURM_RESTART_COUNT='6', MAX_ATTEMPTS='7')
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 1
    assert calls(tmp_path) == []


@pytest.mark.parametrize('code', [0, 3])
def test_exit_code_of_the_command(tmp_path, code):
    done = subprocess.run(
        ['bash', SCRIPT, '60', '143', 'bash', '-c', f'exit {code}'],
        check=False,
        env={'PATH': os.environ['PATH'], 'SLURM_JOB_ID': '17'},
    )
    assert done.returncode == code


def test_allocator_is_preloaded(tmp_path):
    library = tmp_path / 'liballocator.so'

    def start():
        return subprocess.run(
            ['bash', SCRIPT, '60', '143', 'sh', '-c', 'echo "$LD_PRELOAD"'],
            capture_output=True,
            text=True,
            check=False,
            env={'PATH': os.environ['PATH'], 'SLURM_JOB_ID': '17', 'MMKDML_MALLOC': str(library)},
        )

    refused = start()
    assert refused.returncode == 2
    assert f'got {library}' in refused.stderr
    library.touch()  # the loader ignores it, with a warning
    assert start().stdout == f'{library}\n'


def test_usage():
    done = subprocess.run(['bash', SCRIPT, '60'], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'{SCRIPT} SECONDS EXIT_CODE COMMAND' in done.stderr
