import random
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmkdml.engine import ExactResumeHook
from mmkdml.registry import METRICS

EPOCHS = 4


class Noise(Dataset):
    """Every sample is drawn from all three sources of random numbers."""

    def __init__(self, length=6):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return dict(inputs=torch.tensor([index, *drawn]))


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.seen = []

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            return [dict(value=self.layer.weight.detach().clone())]
        self.seen.append(inputs.clone())
        return dict(loss=(self.layer(nn.functional.dropout(inputs, 0.3)) ** 2).mean())


@METRICS.register_module()
class ScriptedScore:
    """Scores that depend on the weights alone, best in between."""

    dataset_meta = None

    def process(self, data_batch, data_samples):
        self.weight = data_samples[0]['value']

    def evaluate(self, size):
        return {'score': float(torch.sin(40 * self.weight.sum()))}


def run(folder, workers=0, persistent=False, epochs=EPOCHS, resume=False, hook=True, interval=1):
    DefaultScope._instance_dict.clear()
    loader = dict(
        batch_size=2,
        num_workers=workers,
        persistent_workers=persistent,
        dataset=Noise(),
        collate_fn=dict(type='default_collate'),
    )
    runner = Runner(
        model=Net(),
        work_dir=str(folder),
        train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=True)),
        val_dataloader=dict(
            batch_size=6,
            dataset=Noise(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        val_cfg=dict(),
        val_evaluator=[dict(type=ScriptedScore)],
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS, val_interval=interval),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type=CheckpointHook, interval=1, save_best='score', rule='greater')
        ),
        custom_hooks=[dict(type=ExactResumeHook)] if hook else [],
        randomness=dict(seed=3),
        default_scope='mmengine',
        experiment_name=f'{folder.name}{random.random()}',
        resume=resume,
        log_level='ERROR',
    )
    torch.rand(random.Random().randint(1, 9))  # what a process did before must not matter
    runner.train()
    return runner


def stop_after(whole, folder, epoch):
    """What a run that was killed after this epoch leaves."""
    folder.mkdir()
    shutil.copy(whole / f'epoch_{epoch}.pth', folder)
    (folder / 'last_checkpoint').write_text(str(folder / f'epoch_{epoch}.pth'))


def best(folder):
    return [path.name for path in folder.glob('best_*')]


@pytest.mark.parametrize(
    ('workers', 'persistent'),
    [(0, False), *(pytest.param(2, kept, marks=pytest.mark.slow) for kept in (False, True))],
)
def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_not_stopped(tmp_path, workers, persistent):
    whole = run(tmp_path / 'whole', workers, persistent)
    for stop in (1, 3):
        folder = tmp_path / f'stopped_{stop}'
        stop_after(tmp_path / 'whole', folder, stop)
        resumed = run(folder, workers, persistent, resume=True)
        torch.testing.assert_close(
            resumed.model.layer.weight, whole.model.layer.weight, rtol=0, atol=0
        )
        later = whole.model.seen[3 * stop :]
        assert len(later) == len(resumed.model.seen)
        for ours, theirs in zip(resumed.model.seen, later, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_without_the_hook_it_does_not(tmp_path):
    whole = run(tmp_path / 'whole', hook=False)
    stop_after(tmp_path / 'whole', tmp_path / 'stopped', 1)
    resumed = run(tmp_path / 'stopped', hook=False, resume=True)
    assert not torch.equal(resumed.model.layer.weight, whole.model.layer.weight)


@pytest.mark.parametrize('workers', [0, 2])
def test_epochs_and_workers_do_not_repeat_each_other(tmp_path, workers):
    seen = run(tmp_path, workers).model.seen
    drawn = torch.cat(seen)[:, 1:]
    assert len(drawn) == 6 * EPOCHS
    assert len(drawn.unique(dim=0)) == len(drawn)


def test_the_seed_decides(tmp_path):
    first, second = run(tmp_path / 'a'), run(tmp_path / 'b')
    assert torch.equal(first.model.layer.weight, second.model.layer.weight)


def test_what_was_saved_before_its_validation_is_validated_first(tmp_path):
    run(tmp_path / 'whole')
    kept = best(tmp_path / 'whole')
    number = int(kept[0].rpartition('_')[2].removesuffix('.pth'))
    # As if the process had died between saving the best epoch and validating it.
    folder = tmp_path / 'stopped'
    stop_after(tmp_path / 'whole', folder, number)
    checkpoint = torch.load(folder / f'epoch_{number}.pth', weights_only=False)
    for key in ('best_score', 'best_ckpt'):
        checkpoint['message_hub']['runtime_info'].pop(key, None)
        checkpoint['message_hub']['resumed_keys'].pop(key, None)
    torch.save(checkpoint, folder / f'epoch_{number}.pth')
    run(folder, resume=True)
    assert best(folder) == kept


def test_an_epoch_that_is_not_validated_is_not_on_resuming(tmp_path):
    class Loop:
        calls = 0

        def run(self):
            self.calls += 1

    runner = run(tmp_path, interval=2)
    for epoch, due in ((0, 0), (1, 0), (2, 1), (3, 0), (EPOCHS, 1)):
        runner._val_loop, runner.train_loop._epoch = loop, _ = Loop(), epoch
        stand_in = ConfigDict(train_loop=runner.train_loop, val_loop=loop)
        ExactResumeHook().before_train(stand_in)
        assert loop.calls == due
