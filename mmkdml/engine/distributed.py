"""Synchronization of the processes of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial, reduce
from typing import Any

import torch
import torch.distributed
from mmengine.dist import all_gather_object, all_reduce, broadcast, get_backend, get_world_size
from mmengine.runner import Runner
from torch import nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

# Enough for gloo's threads to become idle after a step.
FORK_DELAY_SECONDS = 0.05


def set_slurm_environment() -> None:
    """Set the environment variables of ``torch.distributed`` for a task of srun.

    ``MASTER_ADDR`` and ``MASTER_PORT`` may be set before. By default, the port is derived from the
    ids of job and step, so that jobs that share a node do not collide.

    Raises:
        ValueError: If the process was not started by srun.
    """
    env = os.environ
    if 'SLURM_PROCID' not in env:
        raise ValueError(
            '--launcher slurm: expected a task of srun, got no SLURM_PROCID. Start it with '
            'tools/slurm_train.sh or srun'
        )
    job, step = int(env['SLURM_JOB_ID']), int(env.get('SLURM_STEP_ID', 0))
    # Below the ports that Linux assigns to clients.
    env.setdefault('MASTER_PORT', str(10_000 + (job * 31 + step) % 20_000))
    if 'MASTER_ADDR' not in env:
        nodes = env.get('SLURM_STEP_NODELIST') or env['SLURM_NODELIST']
        is_single = env.get('SLURM_STEP_NUM_NODES') == '1'
        env['MASTER_ADDR'] = '127.0.0.1' if is_single else _first_host(nodes)
    env['RANK'] = env['SLURM_PROCID']
    env['LOCAL_RANK'] = env.get('SLURM_LOCALID', '0')
    env['WORLD_SIZE'] = env.get('SLURM_STEP_NUM_TASKS') or env['SLURM_NTASKS']


def _first_host(nodes: str) -> str:
    command = ['scontrol', 'show', 'hostnames', nodes]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def restarted_store(timeout: timedelta | None = None) -> dict[str, Any]:
    """Return arguments of ``init_process_group`` for a restart by torchrun, otherwise none.

    torchrun keeps its store, which contains the addresses of killed processes. Restarted processes
    would wait for them.

    Args:
        timeout: Timeout of the store. Default: PyTorch's.
    """
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    if attempt == '0':
        return {}
    limit: dict[str, Any] = {} if timeout is None else dict(timeout=timeout)
    store, rank, size = next(torch.distributed.rendezvous('env://', **limit))
    store = torch.distributed.PrefixStore(f'attempt_{attempt}', store)
    return dict(store=store, rank=rank, world_size=size)


@contextmanager
def raise_in_all_processes() -> Iterator[None]:
    """Raise an error in all processes if the block or decorated function fails in one of them.

    Without it, the other processes would wait forever. All processes must enter the block.

    Raises:
        RuntimeError: If the block failed in other processes only.
    """
    error = None
    try:
        yield
    except Exception as caught:  # Callers raise any type.
        error = caught
    failures = all_gather_object(error and f'{type(error).__name__}: {error}')
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise RuntimeError(f'Process {rank} failed: {failure}')


def check_equal_epoch_lengths(loader: DataLoader) -> None:
    """Check that all processes have the same number of images and batches in an epoch.

    Otherwise a process would wait for the others forever, or weight its images more.

    Args:
        loader: Training data loader of this process.

    Raises:
        ValueError: If the numbers differ between processes.
    """
    sampler: Any = loader.sampler
    for unit, number in (('images', len(sampler)), ('batches', len(loader))):
        of_all = all_gather_object(number)
        if len({*of_all}) > 1:
            raise ValueError(
                f'Unequal epochs: expected the same number of {unit} in all processes, got '
                f'{", ".join(map(str, of_all))}. Set round_up=True in the sampler of '
                'train_dataloader'
            )


def broadcast_buffers(runner: Runner) -> None:
    """Copy the main process's buffers, such as BatchNorm statistics, to all processes.

    These are the buffers that checkpoints contain.
    """
    for buffer in runner.model.buffers():
        broadcast(buffer)


def average_gradients(runner: Runner) -> None:
    """Average accumulated gradients over the processes, because only the main process saves them.

    The next optimizer step is the same as without averaging them early.
    """
    for parameter in runner.model.parameters():
        if parameter.grad is not None:
            all_reduce(parameter.grad, 'mean')


def deterministic_allreduce(model: nn.Module) -> None:
    """Make DistributedDataParallel sum gradients in rank order with the gloo backend.

    gloo's order depends on the position of a value in its bucket, and buckets differ between the
    first step of a process and later ones. With three or more processes, a resumed run would round
    sums differently.
    """
    if get_world_size() < 3 or get_backend() != 'gloo':
        return
    for module in model.modules():
        if isinstance(module, DistributedDataParallel) and not module._comm_hooks:
            # A lambda, because PyTorch rejects string annotations of hook functions.
            module.register_comm_hook(None, lambda _, bucket: _mean_in_order(bucket))


def _mean_in_order(bucket: torch.distributed.GradBucket) -> Future[torch.Tensor]:
    own, processes = bucket.buffer(), get_world_size()
    shares = nn.functional.pad(own, (0, -len(own) % processes)).view(processes, -1)
    of_all, means = torch.empty_like(shares), torch.empty_like(shares)
    torch.distributed.all_to_all_single(of_all, shares)
    torch.distributed.all_gather([*means], reduce(torch.add, of_all) / processes)
    future: Future[torch.Tensor] = Future()
    future.set_result(means.flatten()[: len(own)])
    return future


@cache
def sleep_before_fork() -> None:
    """Sleep before each fork, so that data loader workers rarely deadlock before Python 3.12.

    A forked worker hangs if another thread holds one of Python's internal locks at that moment
    (python/cpython#112275). gloo's threads hold one when they release a tensor after a step.
    """
    if get_backend() == 'gloo' and sys.version_info < (3, 12):
        os.register_at_fork(before=partial(time.sleep, FORK_DELAY_SECONDS))


def rebuild_reducers(model: nn.Module) -> None:
    """Rebuild the reducers of DistributedDataParallel after the strides of parameters changed.

    A reducer maps its buckets to gradients when it is built. With other strides it permutes the
    values of each gradient in the next step (in all steps with ``find_unused_parameters``), and
    only warns that this may be slow.
    """
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            module.__setstate__(module.__getstate__())  # Rebuilds the reducer, as unpickling does.
            for hook, state in module._comm_hooks:
                torch.distributed._register_comm_hook(module.reducer, state, hook)
