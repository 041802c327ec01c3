"""Check that an epoch has batches and that none is too small to train on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, IterableDataset

from mmkdml.engine.distributed import raise_in_all_processes
from mmkdml.engine.unwrap import unwrap_model
from mmkdml.registry import HOOKS


class _SingleValueError(ValueError):
    """Batch normalization got one value per channel."""


@HOOKS.register_module()
class SmallBatchHook(Hook):
    """Check before training that an epoch has batches and that its smallest one can be trained on.

    A batch of one image fails with batch normalization of 1x1 maps, as in the pooling branch of
    PSPNet and DeepLab, and with losses that compare images. It is often the last batch of an epoch,
    so the training would stop after hours.

    If an epoch has such a batch, the hook computes the losses of one image, and then restores
    buffers, modes and random states.

    Raises:
        ValueError: If an epoch has no batch, or if a batch of one image fails but one of two does
            not.
    """

    @raise_in_all_processes()
    def before_train(self, runner: Runner) -> None:
        """Check the smallest batch of an epoch."""
        loader = runner.train_dataloader
        if not isinstance(loader.dataset, IterableDataset) and len(loader) == 0:
            raise ValueError(
                f'An epoch has no batch: {len(loader.sampler)} images per process, '
                f'batch_size {loader.batch_size}, drop_last {loader.drop_last}. Use a smaller '
                'batch_size, or more images'
            )
        if smallest_batch(loader) != 1:
            return
        model = unwrap_model(runner.model)
        try:
            _compute_losses(model, loader, 1)
            return
        except _SingleValueError as error:
            reason = str(error)
        except Exception as error:  # Models raise any type.
            try:
                _compute_losses(model, loader, 2)
            except Exception:
                return  # Not caused by the batch size; the first step raises it again.
            reason = f'{type(error).__name__}: {error}'
        size: Any = loader.batch_sampler.batch_size
        batch, advice = 'Every batch', 'Use a batch_size of at least 2'
        if size > 1:
            images = len(loader.sampler)
            batch = f'The last batch of an epoch ({images} images per process, batch_size {size})'
            advice = 'Set train_dataloader.drop_last=True or another batch_size'
        raise ValueError(f'{batch} has one image, and training on it fails: {reason}. {advice}')


def smallest_batch(loader: DataLoader) -> int:
    """Return the number of images in this process's smallest batch of an epoch; 0 if unknown."""
    batches: Any = loader.batch_sampler
    size, sampler = getattr(batches, 'batch_size', None), getattr(batches, 'sampler', None)
    if not isinstance(size, int) or size < 1 or not hasattr(sampler, '__len__'):
        return 0
    if isinstance(sampler, InfiniteSampler) or getattr(batches, 'drop_last', False):
        return size
    return len(sampler) % size or size  # type: ignore[arg-type]


def _compute_losses(model: Any, loader: DataLoader, images: int) -> None:
    with _untouched(model):
        samples = [loader.dataset[0] for _ in range(images)]
        model.train()
        norms = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.training
        ]
        handles = []
        for name, module in norms:
            handles.append(module.register_forward_pre_hook(partial(_raise_for_one_value, name)))
            module.eval()  # Keeps the running statistics, and SyncBatchNorm local.
        try:
            batch = model.data_preprocessor(loader.collate_fn(samples), True)
            model(**batch, mode='loss') if isinstance(batch, dict) else model(*batch, mode='loss')
        finally:
            for handle in handles:
                handle.remove()


def _raise_for_one_value(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    features = args[0]
    together = isinstance(module, nn.SyncBatchNorm) and torch.distributed.is_initialized()
    if features.numel() == features.shape[1] and not (
        together and torch.distributed.get_world_size() > 1
    ):
        raise _SingleValueError(
            f'{type(module).__name__} {name} gets {tuple(features.shape)}, one value per channel'
        )


@contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """Restore buffers, modes and random states after a forward pass; disable the teacher cache."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    cache = vars(model).get('teacher_cache')
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        if cache is not None:
            model.teacher_cache = None
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                before = buffers.get(name, buffer)
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        if cache is not None:
            model.teacher_cache = cache
