"""mmengine executes code and deletes files named in a checkpoint; the hook prevents it."""

import uuid
from collections import OrderedDict
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmkdml.engine import SafeResumeHook
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.registry import METRICS

SCORES = count()


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        return [0] if mode == 'predict' else dict(loss=self.layer(inputs[:, None]).mean())


@METRICS.register_module()
class RisingScore(BaseMetric):
    """Metric whose score increases with each validation."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=float(next(SCORES)))


def train(folder, epochs, hook=False, resume=False):
    DefaultScope._instance_dict.clear()
    loader = dict(
        dataset=[torch.zeros(())] * 2,
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=lambda batch: dict(inputs=torch.stack(batch)),
    )
    runner = Runner(
        model=Net(),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=[dict(type=RisingScore)],
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type=CheckpointHook, interval=1, save_best='score', rule='greater')
        ),
        default_scope='mmengine',
        experiment_name=uuid.uuid4().hex,
        resume=resume,
        log_level='ERROR',
    )
    if hook:
        runner.register_hook(SafeResumeHook())
    runner.train()


@pytest.fixture
def hostile(tmp_path):
    """Run, folder that the code would create, and folder that would be deleted."""
    run, made, precious = (tmp_path / name for name in ('run', 'made', 'precious'))
    train(run, 1)
    precious.mkdir()
    checkpoint = load_checkpoint_file(run / 'epoch_1.pth')
    checkpoint['meta']['config'] = f'import os\nos.mkdir({str(made)!r})\n'
    checkpoint['message_hub']['runtime_info']['best_ckpt'] = str(precious)
    torch.save(checkpoint, run / 'epoch_1.pth')
    load_checkpoint_file(run / 'epoch_1.pth')  # Has no pickled code.
    return run, made, precious


def test_mmengine_without_the_hook_executes_and_deletes(hostile):
    run, made, precious = hostile
    train(run, 2, resume=True)
    assert made.exists()
    assert not precious.exists()


def test_hook_prevents_execution_and_deletion(hostile):
    run, made, precious = hostile
    train(run, 2, hook=True, resume=True)
    assert not made.exists()
    assert precious.exists()
    assert (run / 'epoch_2.pth').is_file()
    assert sorted(path.name for path in run.glob('best_*')) == [
        'best_score_epoch_1.pth', 'best_score_epoch_2.pth'
    ]  # fmt: skip


def test_best_checkpoint_of_the_run_is_still_replaced(tmp_path):
    train(tmp_path / 'run', 1)
    train(tmp_path / 'run', 2, hook=True, resume=True)
    assert [path.name for path in (tmp_path / 'run').glob('best_*')] == ['best_score_epoch_2.pth']


def edited(checkpoint, work_dir):
    SafeResumeHook().after_load_checkpoint(SimpleNamespace(work_dir=str(work_dir)), checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ('path', 'is_kept'),
    [
        ('run/best_IoU_epoch_3.pth', True),
        ('./run/../run/best_IoU_epoch_3.pth', True),
        ('run/epoch_3.pth', False),
        ('run/best_IoU_epoch_3.pth/..', False),
        ('run/sub/best_IoU_epoch_3.pth', False),
        ('run', False),
        ('best_IoU_epoch_3.pth', False),
        ('/best_IoU_epoch_3.pth', False),
        ('', False),
        (3, False),
    ],
)
def test_only_best_checkpoints_in_the_run_folder_are_kept(tmp_path, monkeypatch, path, is_kept):
    monkeypatch.chdir(tmp_path)
    info = {'best_ckpt': path, 'best_ckpt_IoU': path, 'best_score': 7.0, 'iter': 3}
    hub = dict(log_scalars={}, runtime_info=info)
    left = edited(dict(message_hub=hub), 'run')['message_hub']
    assert left['log_scalars'] == {}
    assert left['runtime_info'] == (info if is_kept else {'best_score': 7.0, 'iter': 3})


def test_overridden_methods_are_ignored():
    meta = OrderedDict(config='raise SystemExit', epoch=3)
    meta.pop = slice  # weights_only allows a pickle to do this.
    meta.keys = meta.items = OrderedDict
    assert edited(dict(meta=meta), '.') == dict(meta=dict(epoch=3))


@pytest.mark.parametrize('odd', [None, 'config', ['config'], torch.zeros(2)])
def test_invalid_meta_becomes_empty(odd):
    assert edited(dict(meta=odd, weight=1), '.') == dict(meta={}, weight=1)
    assert edited(dict(message_hub=odd), '.') == dict(message_hub=dict(runtime_info={}))


def test_plain_weights_are_not_changed():
    weights = dict(weight=torch.zeros(2))
    assert edited(dict(weights), '.') == weights
