"""The scripts of ``tools`` on a real Slurm cluster of two nodes."""

from pathlib import Path

import pytest
import torch
from conftest import ROOT, VARIABLES
from slurm import NODES, wait_until

from mmkdml.experiments import SuiteStore, load_suite, read_suite, seed_scores

TOOLS = ROOT / 'tools'
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='gloo is for machines without a GPU'
)
ON_CPUS = dict(VARIABLES, GPUS='0', STOP_SECONDS='15')


@pytest.fixture
def train(slurm, small_config, tmp_path):
    """Return a function that submits a training, and returns its job and folder."""

    jobs = []

    def submit(name, *options, config=small_config[0], **variables):
        folder = tmp_path / name
        variables['SBATCH_ARGS'] = f'--time=60 --output={folder}.log {variables.pop("sbatch", "")}'
        job = slurm.submit(
            TOOLS / 'slurm_train.sh',
            name,
            config,
            '--work-dir',
            folder,
            *options,
            **{**ON_CPUS, **variables},
        )
        jobs.append(job)
        return job, folder

    yield submit
    slurm.run('scancel', *jobs, check=False)


@pytest.fixture
def slow(small_config):
    """File that slows trainings down until it is removed."""
    small_config[1].touch()
    yield small_config[1]
    small_config[1].unlink(missing_ok=True)


def wait_for_file(pattern, folder):
    wait_until(lambda: any(folder.glob(pattern)), lambda: f'{folder}/{pattern}: {log_of(folder)}')


def newest_epoch(folder):
    return max((int(path.stem[6:]) for path in folder.glob('epoch_*.pth')), default=0)


def wait_for_epoch(folder, after=0):
    """Wait for the checkpoint of an epoch after another one; older ones are removed."""
    wait_until(lambda: newest_epoch(folder) > after, lambda: f'{folder}: {log_of(folder)}')


def log_of(folder):
    log = Path(f'{folder}.log')
    return log.read_text() if log.exists() else ''


def test_training_on_two_nodes_passes_two_time_limits(slurm, train, slow, two_processes, compare):
    """The result equals that of two processes of torchrun without interruption."""
    nodes = dict(TASKS='2', TASKS_PER_NODE='1', MASTER_ADDR='127.0.0.1')
    job, folder = train('limits', **nodes)
    for number in (1, 2):
        wait_for_epoch(folder, newest_epoch(folder))
        slurm.end_soon(job)
        slurm.wait_for_restart(job, number)
    slow.unlink()
    fields = slurm.wait(job)
    assert (fields['Restarts'], fields['NumNodes']) == ('2', '2')
    assert log_of(folder).count('was restarted: resuming') == 2
    compare(folder, two_processes)


def test_requeued_jobs_that_share_a_node_end_identically(
    slurm, train, slow, two_processes, compare
):
    """Their ports differ. One of them is preempted."""
    on_node = dict(TASKS='2', sbatch='--nodelist=node1')
    (preempted, first), (other, second) = (train(name, **on_node) for name in ('one', 'two'))
    for folder in (first, second):
        wait_for_epoch(folder)
    slurm.run('scontrol', 'requeue', preempted)
    slurm.wait_for_restart(preempted, 1)
    slow.unlink()
    for job, folder, restarts in ((preempted, first, '1'), (other, second, '0')):
        assert slurm.wait(job)['Restarts'] == restarts
        compare(folder, two_processes)


def test_run_of_a_failed_node_is_continued_on_another(slurm, train, slow, two_processes, compare):
    job, folder = train('failed', TASKS='2')
    wait_for_epoch(folder)
    failed = slurm.job(job)['NodeList']
    slurm.fail_node(failed)
    try:
        slurm.wait_for_restart(job, 1)
        slow.unlink()
        fields = slurm.wait(job)
    finally:
        slurm.start_node(failed)
    assert {failed, fields['NodeList']} == {*NODES}
    compare(folder, two_processes)


def test_canceled_and_failed_jobs_are_not_requeued(slurm, train, slow, tmp_path):
    job, folder = train('canceled')
    wait_for_file('*/*.log', folder)
    failing, _ = train('failing', '--cfg-options', 'model.unknown=1')
    slurm.wait(failing, 'FAILED')
    slurm.run('scancel', job)
    slurm.wait(job, 'CANCELLED')
    assert [slurm.job(one)['Restarts'] for one in (job, failing)] == ['0', '0']


def test_suite_passes_two_time_limits(slurm, small_config, slow, tmp_path):
    """The scores of two workers equal those of one worker without interruption."""
    path = tmp_path / 'small.py'
    path.write_text(
        'title, measures, seeds = "Small", ["IoU"], [0, 1, 2]\n'
        f'runs = [dict(name="student", config={str(small_config[0])!r})]\n'
    )
    folder = tmp_path / 'suite'
    output = tmp_path / '%a.log'
    job = slurm.submit(
        TOOLS / 'slurm_suite.sh',
        'suite',
        path,
        '--work-dir',
        folder,
        **ON_CPUS,
        WORKERS='2',
        SBATCH_ARGS=f'--time=60 --output={output}',
    )
    tasks = [f'{job}_1', f'{job}_2']
    for restarts in (1, 2):
        for seed in (0, 1):
            own = folder / f'student/seed_{seed}'
            wait_for_epoch(own, newest_epoch(own))
        for task in tasks:
            slurm.end_soon(task)
        for task in tasks:
            slurm.wait_for_restart(task, restarts)
    slow.unlink()
    assert [slurm.wait(task)['Restarts'] for task in tasks] == ['2', '2']

    undisturbed = tmp_path / 'undisturbed'
    slurm.run(
        'env', *(f'{key}={value}' for key, value in VARIABLES.items()),
        VARIABLES['PYTHON'], TOOLS / 'suite.py', 'run', path, '--work-dir', undisturbed,
    )  # fmt: skip
    scores = [
        seed_scores(read_suite(load_suite(path, one), SuiteStore.in_folder(one, False)))
        for one in (folder, undisturbed)
    ]
    assert len(scores[0])
    assert scores[0].equals(scores[1])
