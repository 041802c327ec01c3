"""Two processes of ``distributed_worker.py`` train, stop and resume."""

import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from mmkdml.engine import distributed
from mmkdml.models.checkpoints import load_checkpoint_file

WORKER = Path(__file__).with_name('distributed_worker.py')


@pytest.fixture(scope='module')
def found(run_scripts, tmp_path_factory):
    """Folder of the trainings, and the results of each process."""
    folder = tmp_path_factory.mktemp('processes')
    for others in ('killed', 'three'):
        (folder / others).mkdir()
    run_scripts(*((WORKER, rank, folder) for rank in range(2)))
    return folder, json.loads((folder / 'found.json').read_text())


EXACT = ['epochs', 'iterations', 'different seeds', 'workers', 'persistent workers']


@pytest.mark.slow
@pytest.mark.parametrize('run', [*EXACT, 'fast', 'fast, bfloat16'])
def test_run_stopped_by_a_signal_to_one_process_ends_identically(found, training, run):
    """The signal arrives within an epoch; batch norm statistics differ between processes."""
    folder, both = found
    assert [one['codes'] for one in both] == [[143] * 8] * 2
    undisturbed, resumed = (
        training.checkpoints(folder / run / how) for how in ('undisturbed', 'resumed')
    )
    assert len(undisturbed) == 3
    assert resumed == undisturbed


@pytest.mark.slow
def test_killed_run_ends_identically(found, training):
    """Resumes from the checkpoint of an epoch, with workers and EMA."""
    folder, both = found
    assert [one['forked'][0] for one in both] == [-signal.SIGKILL] * 2
    undisturbed, resumed = (
        training.checkpoints(folder / run) for run in ('workers/undisturbed', 'killed')
    )
    assert 'ema_state_dict' in undisturbed['epoch_3.pth']
    assert resumed == undisturbed


@pytest.mark.slow
def test_run_of_three_processes_ends_identically(found, training):
    """From three processes on, rounding depends on the order in which gloo sums gradients."""
    folder, both = found
    assert [one['forked'][1:] for one in both] == [[0, 0], [0]]
    undisturbed, resumed = (
        training.checkpoints(folder / 'three' / how) for how in ('undisturbed', 'resumed')
    )
    assert len(undisturbed) == 3
    assert resumed == undisturbed


@pytest.mark.slow
def test_channels_last_and_fused_optimizer_match_one_plain_process(found, training, tmp_path):
    folder, _ = found
    single = training.start(
        tmp_path, net=training.SteadyNet, by_epoch=False, epochs=6, batch=4, adam=dict(eps=1.0)
    )
    assert single.iter == 24
    both = load_checkpoint_file(folder / 'fast' / 'undisturbed' / 'iter_24.pth')['state_dict']
    before = training.SteadyNet().state_dict()
    for name, weight in single.model.state_dict().items():
        torch.testing.assert_close(both[name], weight, atol=1e-5, rtol=0)
        if name.startswith('layer'):
            assert not torch.allclose(weight, before[name], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_accumulated_gradients_of_all_processes_are_resumed(found):
    """Results differ by rounding, because gradients are averaged earlier."""
    folder, _ = found
    undisturbed, resumed = (
        load_checkpoint_file(folder / 'accumulated' / how / 'epoch_3.pth')['state_dict']
        for how in ('undisturbed', 'resumed')
    )
    torch.testing.assert_close(resumed, undisturbed, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_all_processes_validate_the_saved_buffers(found):
    folder, (first, second) = found
    assert first['statistics'] == second['statistics']
    saved = load_checkpoint_file(folder / 'epochs' / 'undisturbed' / 'epoch_3.pth')['state_dict']
    assert first['statistics'][-1] == saved['norm.running_mean'].tolist()


@pytest.mark.slow
def test_samples_of_uneven_epochs(found, training, tmp_path):
    """An epoch has all 7 samples, the first twice, as in one process with double batches."""
    _, (first, second) = found
    batches = [[*a, *b] for a, b in zip(first['seen'], second['seen'], strict=True)]
    assert {len(batch) for batch in batches} == {4}
    single = [batch.tolist() for batch in training.start(tmp_path, batch=4).model.seen]
    for full, rest, single_full, single_rest in zip(
        batches[::2], batches[1::2], single[::2], single[1::2], strict=True
    ):
        assert sorted(full) == sorted(single_full)
        assert sorted(index for index, *_ in full + rest) == sorted([*range(7), full[0][0]])
        assert all(row in rest for row in single_rest)


@pytest.mark.slow
def test_unequal_epochs_raise_in_all_processes(found):
    for one in found[1]:
        assert (
            'same number of images in all processes, got 4, 3. Set round_up=True'
            in (one['unequal'])
        )


def test_error_of_one_process_is_raised_in_all(monkeypatch):
    with distributed.raise_in_all_processes():
        pass
    monkeypatch.setattr(distributed, 'all_gather_object', lambda own: [own, 'OSError: full', None])
    with pytest.raises(RuntimeError, match='Process 1 failed: OSError: full'):
        distributed.raise_in_all_processes()(len)('x')
    with pytest.raises(KeyError, match='mine'), distributed.raise_in_all_processes():
        raise KeyError('mine')


def test_unequal_numbers_of_batches_raise(monkeypatch):
    monkeypatch.setattr(distributed, 'all_gather_object', lambda own: [own, max(own, 2)])
    images = torch.zeros(3)
    distributed.check_equal_epoch_lengths(DataLoader(images, batch_size=2))
    with pytest.raises(ValueError, match='same number of batches in all processes, got 1, 2'):
        distributed.check_equal_epoch_lengths(DataLoader(images, batch_size=3))


@pytest.mark.parametrize(
    ('backend', 'version', 'sleeps'),
    [('gloo', (3, 11), 1), ('gloo', (3, 12), 0), ('nccl', (3, 11), 0), (None, (3, 11), 0)],
)
def test_sleep_before_fork_only_with_gloo_before_python_3_12(monkeypatch, backend, version, sleeps):
    handlers = []
    monkeypatch.setattr(distributed, 'get_backend', lambda: backend)
    monkeypatch.setattr(distributed.sys, 'version_info', version)
    monkeypatch.setattr(distributed.os, 'register_at_fork', lambda before: handlers.append(before))
    distributed.sleep_before_fork.cache_clear()
    for _ in range(2):
        distributed.sleep_before_fork()
    distributed.sleep_before_fork.cache_clear()
    assert len(handlers) == sleeps


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """Environment of the second of four tasks on two nodes, as ``srun`` sets it."""
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\ntest "$*" = "show hostnames node[7-8]" && echo "node7\nnode8"')
    scontrol.chmod(0o755)
    variables = dict(
        SLURM_JOB_ID='41',
        SLURM_STEP_ID='2',
        SLURM_PROCID='1',
        SLURM_LOCALID='1',
        SLURM_STEP_NUM_TASKS='4',
        SLURM_STEP_NUM_NODES='2',
        SLURM_STEP_NODELIST='node[7-8]',
        SLURM_NTASKS='8',
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith('MASTER')}
    environment = {**kept, **variables, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    monkeypatch.setattr(distributed.os, 'environ', environment)
    monkeypatch.setenv('PATH', environment['PATH'])
    return environment


def test_environment_of_a_slurm_task(slurm):
    distributed.set_slurm_environment()
    names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')
    assert [slurm[name] for name in names] == ['1', '1', '4', 'node7']


def test_jobs_that_share_a_node_have_different_ports(slurm):
    ports = set()
    for job in range(10_000, 10_050):
        for step in range(20):
            slurm.update(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step))
            slurm.pop('MASTER_PORT', None)
            distributed.set_slurm_environment()
            ports.add(int(slurm['MASTER_PORT']))
    assert len(ports) == 1000
    assert 1024 < min(ports) < max(ports) < 32768  # from there on, Linux assigns ports to clients


def test_tasks_on_one_node_and_own_settings(slurm):
    slurm['SLURM_STEP_NUM_NODES'] = '1'
    distributed.set_slurm_environment()
    assert slurm['MASTER_ADDR'] == '127.0.0.1'
    slurm.update(MASTER_ADDR='login', MASTER_PORT='7')
    distributed.set_slurm_environment()
    assert (slurm['MASTER_ADDR'], slurm['MASTER_PORT']) == ('login', '7')


def test_process_without_srun_raises(slurm):
    del slurm['SLURM_PROCID']
    with pytest.raises(ValueError, match='expected a task of srun, got no SLURM_PROCID'):
        distributed.set_slurm_environment()


def _sum_of_ranks(rank, port, attempt, dies):
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE='2',
        TORCHELASTIC_USE_AGENT_STORE='True',
        TORCHELASTIC_RESTART_COUNT=str(attempt),
    )
    if attempt and rank == 0:
        time.sleep(1)  # The other process finds the address of the killed one.
    timeout = timedelta(seconds=60)
    store = distributed.restarted_store(timeout)
    torch.distributed.init_process_group('gloo', timeout=timeout, **store)
    ranks = torch.tensor([rank + 1])
    torch.distributed.all_reduce(ranks)
    assert ranks == 3
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_processes_that_torchrun_restarts_ignore_the_addresses_of_killed_ones(forked, all_forked):
    """The store is that of torchrun, which outlives the processes."""
    store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True)
    for attempt in (0, 1):
        processes = forked(*((_sum_of_ranks, rank, store.port, attempt, True) for rank in (0, 1)))
        for process in processes:
            process.join(200)
        assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
    all_forked(*((_sum_of_ranks, rank, store.port, 2, False) for rank in (0, 1)))
