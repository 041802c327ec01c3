import json

import pytest

from mmkdml.apis.run import restarts

TORCHRUN = dict(TORCHELASTIC_RUN_ID='none', MASTER_ADDR='host', MASTER_PORT='7')


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Environment without Slurm and torchrun, which tests extend."""
    values = {}
    monkeypatch.setattr(restarts.os, 'environ', values)
    return values


@pytest.fixture
def attempt(tmp_path):
    """Return a function that starts an attempt, and returns the number of equal ones."""
    path = tmp_path / 'identity.json'

    def start(iteration):
        before = json.loads(path.read_text()) if path.exists() else {}
        record = restarts.count_attempt(before, iteration, tmp_path)
        path.write_text(json.dumps({restarts.ATTEMPTS: record}))
        return record and record['number']

    return start


@pytest.mark.parametrize(
    ('job', 'count'),
    [(dict(SLURM_JOB_ID='4'), 'SLURM_RESTART_COUNT'), (TORCHRUN, 'TORCHELASTIC_RESTART_COUNT')],
)
def test_only_runs_of_a_restarted_job_are_resumed(environment, attempt, tmp_path, job, count):
    environment.update(job)
    assert attempt(0) == 1
    assert not restarts.is_restarted(tmp_path)
    environment[count] = '0'
    assert not restarts.is_restarted(tmp_path)
    environment[count] = '1'
    assert restarts.is_restarted(tmp_path)
    environment[next(iter(job))] = '5'  # another job, whose first attempt did not start the run
    assert not restarts.is_restarted(tmp_path)


def test_jobs_of_an_array_have_one_name(environment):
    environment.update(SLURM_JOB_ID='9', SLURM_ARRAY_JOB_ID='7')
    assert restarts.job_name() == 'Slurm job 7'


def test_slurm_job_counts_before_the_torchrun_in_it(environment):
    environment.update(TORCHRUN, SLURM_JOB_ID='9')
    assert restarts.job_name() == 'Slurm job 9'


def test_attempts_without_progress_are_limited(environment, attempt, tmp_path):
    environment['SLURM_JOB_ID'] = '4'
    most = restarts.MOST_ATTEMPTS
    assert [attempt(12) for _ in range(most)] == [*range(1, most + 1)]
    with pytest.raises(ValueError, match=f'{tmp_path}.*Slurm job 4, got {most} .* iteration 12'):
        attempt(12)
    assert attempt(13) == 1
    environment['SLURM_JOB_ID'] = '5'
    assert attempt(13) == 1


def test_single_process_without_a_scheduler(attempt):
    assert [attempt(3) for _ in range(9)] == [None] * 9
