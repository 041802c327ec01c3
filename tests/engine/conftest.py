"""Small training that uses random numbers everywhere and can be stopped at any iteration."""

import itertools
import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Dataset, get_worker_info

from mmkdml.engine import (
    CPUAmpOptimWrapper,
    DiscriminatorOptimWrapperConstructor,
    ExactResumeHook,
    SafeCheckpointHook,
)
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.registry import METRICS

EPOCHS, SAMPLES, BATCH = 3, 7, 2
LENGTH = 4  # Batches of an epoch; the last one has one sample.
NAMES = itertools.count()


class CrashError(Exception):
    """Ends a run as if its process were killed."""


class Noise(Dataset):
    """Samples from Python's, NumPy's and PyTorch's random number generators."""

    def __init__(self):
        self.loaded = []
        self.stalled = None  # Process to send SIGTERM to once, instead of loading samples.
        self.most = None  # Number of samples after which a worker hangs.

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        self.loaded.append(index)
        if self.stalled is not None:
            worker = get_worker_info()
            if worker is None or worker.id == 0:  # A second signal could come after the run.
                os.kill(self.stalled, signal.SIGTERM)
            signal.pause()
        if self.most is not None and len(self.loaded) > self.most:
            signal.pause()
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return dict(inputs=torch.tensor([index, *drawn]))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.discriminator = nn.Linear(1, 1)

    def discriminator_loss(self, real, fake):
        return self.discriminator(real).mean() - self.discriminator(fake).mean()


class Net(BaseModel):
    noise = 1.0

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.critic = nn.Linear(4, 1), nn.BatchNorm1d(1), Critic()
        for number, parameter in enumerate(self.parameters()):
            nn.init.constant_(parameter, 0.5 + 0.1 * number)
        self.seen = []

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            return [dict(value=self.layer.weight.detach().clone())]
        self.seen.append(inputs.clone())
        out = self.layer(nn.functional.dropout(inputs, 0.3 * self.noise))
        if len(out) > 1:
            out = self.norm(out)
        noise = self.noise * torch.tensor(random.random() + np.random.rand())
        fake = self.noise * torch.rand(2, 1)
        return dict(
            loss=((out - noise) ** 2).mean(),
            loss_critic=self.critic.discriminator_loss(out.detach(), fake),
        )


class Convolutions(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Unflatten(1, (4, 1, 1)),
            nn.Upsample(size=(5, 5)),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(6, 1, 5),
            nn.Flatten(),
        )

    @property
    def weight(self):
        return self[2].weight


class ConvolutionalNet(Net):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = Convolutions(), nn.Identity()  # Two samples are too few for a norm.
        generator = torch.Generator().manual_seed(0)
        for parameter in self.layer.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


class SteadyNet(ConvolutionalNet):
    """Network without random numbers, which differ between processes."""

    noise = 0.0


@METRICS.register_module()
class SineOfWeights:
    """Metric whose score depends only on the weights and has several maxima."""

    dataset_meta = None

    def process(self, data_batch, data_samples):
        self.weight = data_samples[0]['value']

    def evaluate(self, size):
        return {'score': float(torch.sin(40 * self.weight.sum()))}


class StopAt(Hook):
    priority = 'LOWEST'

    def __init__(self, stage, iteration, how):
        self.stage, self.iteration, self.how = stage, iteration, how

    def _stop(self, stage, iteration):
        if (stage, iteration) == (self.stage, self.iteration):
            if self.how is CrashError:
                raise CrashError
            signal.raise_signal(self.how)

    def after_train_iter(self, runner, *_, **__):
        self._stop('train', runner.iter + 1)

    def after_val_iter(self, runner, *_, **__):
        self._stop('val', runner.iter)


def start(
    folder, stop=None, load_from=None, resume=False, workers=0, persistent=False, by_epoch=True,
    ema=False, accumulate=1, hook=True, seed=3, sampler=None, hooks=(), parallel=False,
    different=False, round_up=True, batch=BATCH, net=Net, adam=None, amp=False, epochs=EPOCHS,
    **checkpoint
):  # fmt: skip
    DefaultScope._instance_dict.clear()
    loader = dict(
        batch_size=batch,
        num_workers=workers,
        persistent_workers=persistent,
        dataset=Noise(),
        collate_fn=dict(type='default_collate'),
    )
    sampler = dict(type=sampler or ('DefaultSampler' if by_epoch else 'InfiniteSampler'))
    if not round_up:
        sampler['round_up'] = False
    custom = [dict(type=ExactResumeHook)] if hook else []
    custom += [dict(type=EMAHook, momentum=0.1)] if ema else []
    custom += hooks
    custom += [dict(type=StopAt, stage=stop[0], iteration=stop[1], how=stop[2])] if stop else []
    loop = (
        dict(type=EpochBasedTrainLoop, max_epochs=epochs)
        if by_epoch
        else dict(type=IterBasedTrainLoop, max_iters=epochs * LENGTH, val_interval=LENGTH)
    )
    settings = dict(type=SafeCheckpointHook, save_best='score', rule='greater', max_keep_ckpts=2)
    runner = Runner(
        model=net(),
        work_dir=str(folder),
        train_dataloader=dict(loader, sampler=dict(sampler, shuffle=True)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(),
        val_evaluator=[dict(type=SineOfWeights)],
        train_cfg=loop,
        optim_wrapper=dict(
            type=CPUAmpOptimWrapper if amp else OptimWrapper,
            constructor=DiscriminatorOptimWrapperConstructor,
            optimizer=dict(type='Adam', lr=0.05, **(adam or {})),
            discriminator_optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
            accumulative_counts=accumulate,
        ),
        param_scheduler=[
            dict(type='CosineAnnealingLR', T_max=epochs * LENGTH, by_epoch=False),
            dict(type='ReduceOnPlateauLR', monitor='score', rule='greater', patience=0, factor=0.7),
        ][: 2 if by_epoch else 1],
        default_hooks=dict(
            checkpoint={**settings, 'interval': 1 if by_epoch else LENGTH, 'by_epoch': by_epoch}
            | checkpoint
        ),
        custom_hooks=custom,
        randomness=dict(seed=seed, diff_rank_seed=different),
        launcher='pytorch' if parallel else 'none',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        default_scope='mmengine',
        experiment_name=f'run{next(NAMES)}',
        load_from=load_from and str(load_from),
        resume=resume,
        log_level='ERROR',
    )
    torch.rand(random.Random().randint(1, 9))  # Earlier random numbers must not matter.
    try:
        runner.train()
    finally:
        _end_workers(runner)
    return runner


def _end_workers(runner):
    """End workers immediately; the garbage collector would wait five seconds for each."""
    loop = runner.train_loop
    for loader in (runner.train_dataloader, runner.val_dataloader):
        loader._iterator = None
    if getattr(loop, '_batches', None) is not None:
        loop._batches._loader._iterator = None
    if hasattr(loop, 'dataloader_iterator'):
        loop.dataloader_iterator = None


def _plain(value):
    """Remove entries that depend on time, process or the version of the working directory."""
    ignored = {'time', 'experiment_name', 'cfg', 'train/time', 'train/data_time', 'val/time'}
    ignored |= {'val/data_time', 'eta', 'last_ckpt', 'best_ckpt', 'mmengine_version'}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in ignored}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return value


def content(path):
    """Return the content of a checkpoint that must be bitwise equal."""
    loaded = load_checkpoint_file(path)
    hub = loaded.pop('message_hub')
    losses = {
        key: list(value.data[0])
        for key, value in hub['log_scalars'].items()
        if key.startswith('train/') and not key.endswith('time')
    }
    # iter and epoch are in meta, too; here they are those of the current iteration.
    info = {key: x for key, x in hub['runtime_info'].items() if key not in ('iter', 'epoch')}
    return _plain({**loaded, 'info': info, 'losses': losses})


def checkpoints(folder):
    """Return the content of all checkpoints in a folder by name."""
    return {path.name: content(path) for path in folder.glob('*.pth')}


@pytest.fixture(scope='session')
def training():
    """Functions and networks of this file."""
    return SimpleNamespace(
        start=start,
        checkpoints=checkpoints,
        content=content,
        Crash=CrashError,
        ConvolutionalNet=ConvolutionalNet,
        SteadyNet=SteadyNet,
    )


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory):
    """Function that returns runner and checkpoints of an uninterrupted run with some settings."""
    known = {}

    def get(**settings):
        key = tuple(settings.items())
        if key not in known:
            folder = tmp_path_factory.mktemp('undisturbed')
            known[key] = start(folder, **settings), checkpoints(folder)
        return known[key]

    return get
