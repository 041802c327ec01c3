"""Agreement between the processes of a run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial, reduce
from typing import Any

import torch
import torch.distributed
from mmengine.dist import all_gather_object, all_reduce, broadcast, get_backend, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

# In which gloo's threads come to rest
FORK_DELAY_SECONDS = 0.05


@contextmanager
def raise_in_all_processes() -> Iterator[None]:
    """Raise an error in all processes if the block, or decorated function, fails in one of them.

    Otherwise the others would wait forever for the one that has failed. All processes must enter
    the block.

    Raises:
        RuntimeError: If the block failed in other processes only.
    """
    error = None
    try:
        yield
    except Exception as caught:  # any class of any framework
        error = caught
    failures = all_gather_object(error and f'{type(error).__name__}: {error}')
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise RuntimeError(f'Process {rank} failed: {failure}')


def unwrap_model(model: Any) -> Any:
    """Return the network of a wrapper such as ``DistributedDataParallel``, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def check_equal_epoch_lengths(loader: DataLoader) -> None:
    """Refuses processes of which one would wait for the others for ever, or weigh its images more.

    Args:
        loader: Of this process.

    Raises:
        ValueError: If the processes have unequal numbers of images or of batches in an epoch.
    """
    sampler: Any = loader.sampler
    for what, number in (('images', len(sampler)), ('batches', len(loader))):
        of_all = all_gather_object(number)
        if len({*of_all}) > 1:
            raise ValueError(
                f'All processes need the same number of {what} in an epoch, but they have '
                f'{", ".join(map(str, of_all))}. Give the sampler of train_dataloader round_up=True'
            )


def broadcast_buffers(runner: Runner) -> None:
    """Gives all processes the main one's buffers, such as the running statistics of BatchNorm.

    They are what is saved.
    """
    for buffer in runner.model.buffers():
        broadcast(buffer)


def average_gradients(runner: Runner) -> None:
    """Averages gradients that wait for their step over the processes.

    The step is the same as if that were done later, and only the main process saves them.
    """
    for parameter in runner.model.parameters():
        if parameter.grad is not None:
            all_reduce(parameter.grad, 'mean')


def deterministic_allreduce(model: nn.Module) -> None:
    """Has DistributedDataParallel add up gradients in the order of the processes, on CPUs.

    By gloo, the order depends on a number's place in the buckets, which are others in the first
    step of a process than later: after a resume, sums of three or more would be rounded otherwise.
    """
    if get_world_size() < 3 or get_backend() != 'gloo':
        return
    for module in model.modules():
        if isinstance(module, DistributedDataParallel) and not module._comm_hooks:
            # PyTorch takes no annotations that are strings, as those of functions here are.
            module.register_comm_hook(None, lambda _, bucket: _mean_in_order(bucket))


def _mean_in_order(bucket: torch.distributed.GradBucket) -> Future[torch.Tensor]:
    own, processes = bucket.buffer(), get_world_size()
    shares = nn.functional.pad(own, (0, -len(own) % processes)).view(processes, -1)
    of_all, whole = torch.empty_like(shares), torch.empty_like(shares)
    torch.distributed.all_to_all_single(of_all, shares)
    torch.distributed.all_gather([*whole], reduce(torch.add, of_all) / processes)
    mean: Future[torch.Tensor] = Future()
    mean.set_result(whole.flatten()[: len(own)])
    return mean


@cache
def sleep_before_fork() -> None:
    """Makes it improbable that a data loader's worker hangs as it is forked, before Python 3.12.

    It does if another thread just takes a lock of Python's (python/cpython#112275), as those of
    gloo do when they let go of a tensor after a step. No lock can be taken from here, only time.
    """
    if get_backend() == 'gloo' and sys.version_info < (3, 12):
        os.register_at_fork(before=partial(time.sleep, FORK_DELAY_SECONDS))


def rebuild_reducers(model: nn.Module) -> None:
    """Tells DistributedDataParallel, if a model is in it, that parameters lie otherwise in memory.

    It notes where in its buckets which number of a gradient is when it is made. If that changes, it
    mixes up the numbers of each gradient in the next step, or in all with
    ``find_unused_parameters``, and says no more than that it may be slow.
    """
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            module.__setstate__(module.__getstate__())  # as a copy that is unpickled
            for hook, state in module._comm_hooks:
                torch.distributed._register_comm_hook(module.reducer, state, hook)
