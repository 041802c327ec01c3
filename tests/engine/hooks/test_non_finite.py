"""The oracle for a skipped batch is the same training without it."""

import copy
import json
import logging
import math
import uuid
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

# isort: split
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor, BaseModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead
from mmpretrain.structures import DataSample
from torch import nn

from mmkdml.engine import CPUAmpOptimWrapper, NonFiniteLossHook

NAN = math.nan


class Net(BaseModel):
    """Loss and buffers depend on the batch; has a list of losses, and a value that is no loss."""

    def __init__(self):
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        torch.manual_seed(0)
        self.norm, self.layer = nn.BatchNorm1d(4), nn.Linear(4, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.layer(self.norm(torch.stack(list(inputs))))
        return dict(loss=out.square().mean(), loss_parts=[out.mean(), out.abs().mean()], acc=out)


def batch(seed, bad=None):
    inputs = list(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))
    if bad is not None:
        inputs[1][2] = bad
    samples = [DataSample(metainfo=dict(img_path=f'{seed}_{i}.png', id=i)) for i in range(3)]
    return dict(inputs=inputs, data_samples=samples)


@pytest.fixture
def train(tmp_path, caplog):
    """Train on batches with a hook; return the runner with the logs of each step."""

    def run(batches, hook=None, wrapper=OptimWrapper, model=None, **settings):
        model = model or Net()
        parameters = model.parameters()
        wrapper = wrapper(
            optimizer=torch.optim.Adam(parameters, lr=0.05, weight_decay=0.1), **settings
        )
        wrapper.initialize_count_status(model, 0, len(batches))
        runner = SimpleNamespace(
            model=model,
            optim_wrapper=wrapper,
            message_hub=MessageHub.get_instance(uuid.uuid4().hex),
            logger=logging.getLogger('test'),
            work_dir=str(tmp_path),
            epoch=0,
            logs=[],
        )
        for runner.iter, one in enumerate(batches):
            if hook is not None:
                hook.before_train_iter(runner, runner.iter, one)
            runner.logs.append(model.train_step(one, wrapper))
        return runner

    return run


def content(runner):
    return copy.deepcopy((runner.model.state_dict(), runner.optim_wrapper.state_dict()))


def assert_equal(ours, theirs):
    torch.testing.assert_close(content(ours), content(theirs), rtol=0, atol=0)


@pytest.mark.parametrize('policy', ['stop', 'skip'])
@pytest.mark.parametrize('wrapper', [OptimWrapper, CPUAmpOptimWrapper])
def test_finite_losses_change_nothing(train, tmp_path, policy, wrapper):
    batches = [batch(seed) for seed in range(3)]
    ours = train(batches, NonFiniteLossHook(policy), wrapper)
    assert_equal(ours, train(batches, None, wrapper))
    assert not list(tmp_path.iterdir())
    assert not ours.message_hub.runtime_info
    assert not ours.message_hub.log_scalars
    assert not ours.model._forward_hooks


@pytest.mark.parametrize('bad', [NAN, math.inf])
def test_policy_stop_raises_before_the_step(train, tmp_path, bad):
    model = Net()
    before = copy.deepcopy([*model.parameters()])
    with pytest.raises(
        ValueError,
        match=r'The loss of iteration 1 is not finite; the images and losses of the batch are in '
        r'.*iter_1\.json\. Training stops before the step\. Fix the data, lower the learning rate',
    ):
        train([batch(0, bad)], NonFiniteLossHook(), model=model)
    assert all(torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_report_contains_losses_and_images_of_the_batch(train, tmp_path):
    with pytest.raises(ValueError, match='The loss of iteration 2'):
        train([batch(0), batch(1, NAN)], NonFiniteLossHook())
    report = json.loads((tmp_path / 'non_finite' / 'iter_2.json').read_text())
    assert (report['epoch'], report['iteration']) == (1, 2)
    (one,) = report['batches']
    assert one['losses'] == dict(loss='nan', loss_parts='nan', acc='nan')
    assert one['samples'] == [
        dict(id=0, img_path='1_0.png', finite=True),
        dict(id=1, img_path='1_1.png', finite=False),
        dict(id=2, img_path='1_2.png', finite=True),
    ]


@pytest.mark.parametrize('wrapper', [OptimWrapper, CPUAmpOptimWrapper])
def test_skipped_batch_has_no_effect(train, caplog, wrapper):
    good = [batch(seed) for seed in range(4)]
    bad = [batch(9, NAN), batch(10, math.inf)]
    ours = train([*good[:2], *bad, *good[2:]], NonFiniteLossHook('skip'), wrapper)
    assert_equal(ours, train(good, None, wrapper))
    assert 'The loss of iteration 3 is not finite' in caplog.text
    hub = ours.message_hub
    assert hub.get_scalar('train/skipped_batches').data[0].tolist() == [1, 2]
    assert hub.get_info('skipped_in_a_row') == 0
    finite = [math.isfinite(log['loss']) for log in ours.logs]
    assert finite == [True, True, False, False, True, True]


def test_other_accumulated_batches_contribute(train):
    """The step equals one in which the loss of the skipped batch is zero."""

    class OneLoss(Net):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            losses = super().forward(inputs, data_samples, mode)
            return {key: value for key, value in losses.items() if key != 'loss_parts'}

    good = [batch(seed) for seed in range(6)]
    ours = train(
        [good[0], batch(9, NAN), good[1], *good[2:5]],
        NonFiniteLossHook('skip'),
        model=OneLoss(),
        accumulative_counts=3,
    )
    reference = OneLoss()
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.05, weight_decay=0.1)
    for step in (good[:2], good[2:5]):
        for one in step:
            (reference(**one, mode='loss')['loss'] / 3).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(ours.model.state_dict(), reference.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize('enabled', [True, False])
def test_loss_scaler_skips_the_step(train, monkeypatch, enabled):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'GradScaler', lambda **s: torch.amp.GradScaler('cpu', **s)
    )
    settings = dict(loss_scale=dict(init_scale=16.0, enabled=enabled), dtype='bfloat16')
    good = [batch(seed) for seed in range(4)]
    ours, theirs = (
        train(batches, NonFiniteLossHook('skip'), AmpOptimWrapper, **settings)
        for batches in ([*good[:2], batch(9, NAN), *good[2:]], good)
    )
    torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=0, atol=0)
    assert ours.optim_wrapper.loss_scaler.get_scale() == (8.0 if enabled else 1.0)


def test_overflow_of_scaled_gradients_is_left_to_the_scaler(train, monkeypatch, tmp_path):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'GradScaler', lambda **s: torch.amp.GradScaler('cpu', **s)
    )
    model, before = Net(), Net()
    train(
        [batch(0)],
        NonFiniteLossHook(),
        AmpOptimWrapper,
        model,
        loss_scale=dict(init_scale=2.0**127),
        dtype='bfloat16',
    )
    torch.testing.assert_close([*model.parameters()], [*before.parameters()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('limit', 'stops'), [(0, 2), (2, 4), (3, None)])
def test_too_many_skips_in_a_row_raise(train, limit, stops):
    # Three in a row, then a finite one, then another.
    values = [0.0, NAN, NAN, NAN, 0.0, NAN][: 6 if limit else 3]
    batches = [batch(i, x if math.isnan(x) else None) for i, x in enumerate(values)]
    hook = NonFiniteLossHook('skip', max_skips=limit)
    if stops is None:
        assert train(batches, hook).message_hub.get_info('skipped_batches') == 4
        return
    skipped = rf' after {limit} skipped batches' if limit else ''
    with pytest.raises(
        ValueError, match=rf'iteration {stops} is not finite.*before the step{skipped}\. Fix'
    ):
        train(batches, hook)


class Backbone(nn.Conv2d):
    def forward(self, inputs):
        return (super().forward(inputs),)


def test_mmpretrain_classifier(train, tmp_path):
    model = ImageClassifier(
        backbone=Backbone(3, 4, 3),
        neck=dict(type=GlobalAveragePooling),
        head=dict(type=LinearClsHead, in_channels=4, num_classes=2),
    )
    one = batch(0)
    one['inputs'] = torch.zeros(3, 3, 5, 5)
    one['data_samples'] = [sample.set_gt_label(0) for sample in one['data_samples']]
    one['inputs'][2, 0, 1, 1] = NAN
    with pytest.raises(ValueError, match='The loss of iteration 1'):
        train([one], NonFiniteLossHook(), model=model)
    report = json.loads((tmp_path / 'non_finite' / 'iter_1.json').read_text())['batches'][0]
    assert [sample['finite'] for sample in report['samples']] == [True, True, False]
    before = copy.deepcopy(model.state_dict())
    train([one], NonFiniteLossHook('skip'), model=model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('where', 'bad'),
    [('layer.weight', math.inf), ('norm.running_var', NAN), ('norm.running_var', math.inf)],
)
def test_non_finite_weights_are_not_saved(train, where, bad):
    hook, runner = NonFiniteLossHook(), train([])
    checkpoint = dict(meta=dict(iter=5), state_dict=runner.model.state_dict())
    hook.before_save_checkpoint(runner, checkpoint)
    runner.model.state_dict()[where].view(-1)[0] = bad
    with pytest.raises(ValueError, match=rf'not finite after iteration 5 \({where}: .* 0 other'):
        hook.before_save_checkpoint(runner, checkpoint)


def test_resumed_run_continues_counting_skips(training, tmp_path):
    class Poison(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter in (4, 5, 6, 9):
                data_batch['inputs'][0] = NAN

    hooks = [dict(type=Poison), dict(type=NonFiniteLossHook, policy='skip')]
    uninterrupted, resumed = tmp_path / 'uninterrupted', tmp_path / 'resumed'
    runner = training.start(uninterrupted, hooks=hooks)
    assert runner.message_hub.get_info('skipped_batches') == 4
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    with pytest.raises(training.Crash):
        training.start(resumed, ('train', 9, training.Crash), hooks=hooks)
    training.start(resumed, None, resumed / 'epoch_2.pth', resume=True, hooks=hooks)
    assert training.checkpoints(resumed).keys() == training.checkpoints(uninterrupted).keys()
    for name in training.checkpoints(uninterrupted):
        ours, theirs = (training.content(folder / name) for folder in (resumed, uninterrupted))
        torch.testing.assert_close(ours['state_dict'], theirs['state_dict'], rtol=0, atol=0)
        assert ours['info'] == theirs['info']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(policy='ignore'), "policy: expected one of stop, skip, got 'ignore'"),
        (dict(max_skips=-1), 'max_skips: expected at least 0, got -1'),
    ],
)
def test_invalid_arguments_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        NonFiniteLossHook(**settings)


def process(rank, folder):
    """Train; only the second batch of the second process is not finite."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2,
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    for policy in ('skip', 'stop'):
        model = MMDistributedDataParallel(Net(), device_ids=None)
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        runner = SimpleNamespace(
            model=model, optim_wrapper=wrapper, message_hub=MessageHub.get_instance(policy),
            logger=logging.getLogger(), work_dir=str(folder), epoch=0,
        )  # fmt: skip
        hook, error = NonFiniteLossHook(policy), ''
        for runner.iter in range(3):
            one = batch(10 * rank + runner.iter, NAN if rank and runner.iter == 1 else None)
            hook.before_train_iter(runner, runner.iter, one)
            try:
                model.train_step(one, wrapper)
            except ValueError as stopped:
                error = str(stopped)
                break
        saved = dict(weights=[*model.parameters()], error=error, iter=runner.iter)
        torch.save(saved, folder / f'{policy}_{rank}.pt')


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without a GPU')
def test_all_processes_take_the_same_decision(tmp_path, all_forked):
    all_forked((process, 0, tmp_path), (process, 1, tmp_path))
    skip, stop = (
        [torch.load(tmp_path / f'{policy}_{rank}.pt') for rank in (0, 1)]
        for policy in ('skip', 'stop')
    )
    torch.testing.assert_close(skip[0]['weights'], skip[1]['weights'], rtol=0, atol=0)
    torch.testing.assert_close(stop[0]['weights'], stop[1]['weights'], rtol=0, atol=0)
    assert all(weight.isfinite().all() for weight in skip[0]['weights'])
    assert [one['iter'] for one in (*skip, *stop)] == [2, 2, 1, 1]
    assert all('The loss of iteration 2 is not finite' in one['error'] for one in stop)
    batches = json.loads((tmp_path / 'non_finite' / 'iter_2.json').read_text())['batches']
    finite = [[sample['finite'] for sample in one['samples']] for one in batches]
    assert finite == [[True, True, True], [True, False, True]]
