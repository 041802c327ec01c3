"""Schedules in real trainings, which are stopped and resumed."""

import signal
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from mmkdml.engine import TransferWeightHook
from mmkdml.models import Transfer
from mmkdml.models.distillers.terms.transfer_terms import TransferTerm
from mmkdml.models.weighting import GradNorm, UncertaintyWeighting, WeightedLoss

EPOCHS, LENGTH = 3, 4
BY_EPOCH = dict(type='LinearWeight', start_factor=0.0)  # ends with the training
BY_ITERATION = dict(type='CosineWarmupWeight', by_epoch=False)
CHAIN = [
    dict(type='LinearWeight', start_factor=0.1, end=6, by_epoch=False),
    dict(type='MultiStepWeight', milestones=[2], gamma=0.5),
]


@pytest.fixture
def net(training):
    """Function that returns the class of a network with scheduled terms, or learned weights."""

    def make(*schedules, learned=None):
        class WeightedNet(training.SteadyNet):
            def __init__(self):
                super().__init__()
                self.applied = []
                self.transfer_terms = []
                for number, schedule in enumerate(schedules):
                    row = Transfer('a', 'b', 'features', 0.5, schedule=schedule)
                    key = f'b.loss_from_a.features_{number}'
                    self.transfer_terms.append(
                        TransferTerm(row, key, None, None, nn.MSELoss(), None)
                    )
                if learned is not None:
                    rows = (WeightedLoss('', 1.0), WeightedLoss('b.loss_from_a.features', 1.0))
                    extra = dict(members=dict(b=self), default_layers=dict(b='layer'))
                    extra = extra if learned is GradNorm else {}
                    self.learned_weights = learned(dict(b=rows), **extra)

            def forward(self, inputs, mode='tensor'):
                log = super().forward(inputs, mode)
                if mode == 'loss':
                    square = sum(x.square().sum() for x in self.layer.parameters())
                    self.applied.append([float(term.weight) for term in self.transfer_terms])
                    for term in self.transfer_terms:
                        log[Transfer.weight_key(term.key)] = term.scheduled_weight()
                        log[term.key] = term.weight * square
                    if learned is not None:
                        log['b.loss'] = log.pop('loss')
                        log['b.loss_from_a.features'] = 0.1 * square
                        log = self.learned_weights(log, dict(b=self))
                return log

        return WeightedNet

    return make


def test_weights_of_each_iteration(training, net, tmp_path):
    settings = dict(net=net(BY_EPOCH, BY_ITERATION), hooks=[dict(type=TransferWeightHook)])
    runner = training.start(tmp_path, epochs=EPOCHS, **settings)
    by_epoch, by_iteration = zip(*runner.model.applied, strict=True)
    assert by_epoch == (0,) * 4 + (0.25,) * 4 + (0.5,) * 4
    shares = 0.25 * (1 - torch.cos(torch.pi * torch.arange(12) / 11))
    assert by_iteration == pytest.approx(shares.tolist(), abs=1e-6)
    logged = runner.message_hub.get_scalar('train/b.weight_from_a.features_0').data[0]
    assert logged.tolist() == list(by_epoch)


@pytest.mark.parametrize(('iteration', 'by_epoch'), [(6, True), (8, True), (5, False)])
def test_resumed_run_has_the_same_weights(training, net, tmp_path, iteration, by_epoch):
    schedules = (BY_EPOCH, CHAIN) if by_epoch else (CHAIN[:1],)
    settings = dict(net=net(*schedules), hooks=[dict(type=TransferWeightHook)], by_epoch=by_epoch)
    settings['accumulate'] = 3
    undisturbed = training.start(tmp_path / 'undisturbed', **settings)
    with pytest.raises(SystemExit):
        training.start(tmp_path / 'run', ('train', iteration, signal.SIGTERM), **settings)
    path = tmp_path / 'run' / 'interrupted.pth'
    resumed = training.start(tmp_path / 'run', None, path, resume=True, **settings)
    assert resumed.model.applied == undisturbed.model.applied[iteration:]
    found, expected = (training.checkpoints(tmp_path / one) for one in ('run', 'undisturbed'))
    found.pop('interrupted.pth', None)
    assert found == expected


@pytest.mark.parametrize('learned', [UncertaintyWeighting, GradNorm])
@pytest.mark.parametrize('amp', [False, True])
def test_learned_weights_are_trained_saved_and_resumed(training, net, tmp_path, learned, amp):
    settings = dict(net=net(learned=learned), hooks=[dict(type=TransferWeightHook)])
    settings |= dict(accumulate=3, amp=amp, ema=True)
    undisturbed = training.start(tmp_path / 'undisturbed', **settings)
    with pytest.raises(SystemExit):
        training.start(tmp_path / 'run', ('train', 7, signal.SIGTERM), **settings)
    path = tmp_path / 'run' / 'interrupted.pth'
    training.start(tmp_path / 'run', None, path, resume=True, **settings)
    found, expected = (training.checkpoints(tmp_path / one) for one in ('run', 'undisturbed'))
    found.pop('interrupted.pth', None)
    assert found == expected
    own = dict(undisturbed.model.learned_weights.named_parameters())
    assert {f'learned_weights.{name}' for name in own} < set(expected['epoch_3.pth']['state_dict'])
    for parameter in own.values():
        assert parameter.isfinite().all()
        initial = 1.0 if learned is GradNorm else 0.0
        assert (parameter - initial).abs().min() > 0.01
    assert 'train/b.weight_from_a.features' in undisturbed.message_hub.log_scalars


def test_epochs_of_iteration_based_training_raise(training, net, tmp_path):
    settings = dict(hooks=[dict(type=TransferWeightHook)], by_epoch=False)
    with pytest.raises(ValueError, match=r'a -> b features.*by_epoch=False'):
        training.start(tmp_path, net=net(dict(BY_EPOCH, begin=3)), **settings)
    runner = training.start(tmp_path, net=net(BY_ITERATION), **settings)
    assert runner.model.applied[0] == [0]
    assert runner.model.applied[-1] == pytest.approx([0.5])


def test_two_hooks_raise(training, net, tmp_path):
    with pytest.raises(ValueError, match='expected one TransferWeightHook'):
        training.start(tmp_path, net=net(BY_EPOCH), hooks=[dict(type=TransferWeightHook)] * 2)


def fake_runner(model, warnings=(), **wrapper):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=wrapper.pop('decay', 0))
    return SimpleNamespace(
        model=model,
        hooks=[],
        train_dataloader=[1, 2],
        train_loop=None,
        max_epochs=1,
        max_iters=2,
        iter=0,
        optim_wrapper=SimpleNamespace(optimizer=optimizer, **wrapper),
        logger=SimpleNamespace(warning=warnings.append) if warnings != () else None,
    )


def test_weight_decay_of_learned_weights_warns(net):
    warnings = []
    model = net(learned=UncertaintyWeighting)()
    for decay in (0.0, 0.1):
        TransferWeightHook().before_train(fake_runner(model, warnings, decay=decay))
    (text,) = warnings
    assert 'weight_decay=0.1' in text
    assert "custom_keys={'learned_weights': dict(decay_mult=0)}" in text


def test_advice_against_weight_decay_works(net):
    model = net(learned=UncertaintyWeighting)()
    settings = dict(
        type=OptimWrapper,
        optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1),
        paramwise_cfg=dict(custom_keys={'learned_weights': dict(decay_mult=0)}),
    )
    wrapper, warnings = build_optim_wrapper(model, settings), []
    runner = fake_runner(model, warnings)
    runner.optim_wrapper = wrapper
    TransferWeightHook().before_train(runner)
    assert warnings == []


def test_scale_of_losses_is_passed(net):
    model = net(learned=GradNorm)()
    runner = fake_runner(model, loss_scaler=SimpleNamespace(get_scale=lambda: 1024.0))
    hook = TransferWeightHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert model.learned_weights.loss_scale == 1024


def test_other_models_are_not_changed():
    hook, runner = TransferWeightHook(), fake_runner(nn.Linear(1, 1))
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    hook.after_train_iter(runner)
    hook.after_train_epoch(runner)
