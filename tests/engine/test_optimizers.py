import copy
import functools
import math
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import (
    AmpOptimWrapper,
    CosineAnnealingLR,
    DefaultOptimWrapperConstructor,
    OptimWrapper,
    PolyLR,
    build_optim_wrapper,
)
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.optim import SGD, Adam, AdamW

from mmkdml.engine import (
    CPUAmpOptimWrapper,
    DiscriminatorOptimWrapperConstructor,
    SeparateOptimizers,
)
from mmkdml.models.losses import HolisticLoss

MAINS = {
    'sgd': dict(type=SGD, lr=0.2, momentum=0.9, weight_decay=1e-3),
    'adamw': dict(type=AdamW, lr=1e-2),
}
OWN = dict(type=Adam, lr=4e-4, betas=(0.9, 0.99))
SHARES = (0.1, 0.5)  # Weights of the learner's and the discriminator's adversarial losses.


class Classroom(BaseModel):
    """Learner of two classes, and a discriminator that compares its logits with the source's."""

    def __init__(self, kind='hinge'):
        super().__init__()
        torch.manual_seed(0)
        self.learner = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.holistic = HolisticLoss(2, 2, kind=kind, width=2)

    def logits(self, inputs):
        return self.head(self.learner(inputs)).float()

    def terms(self, inputs):
        """Losses of the learner and of the discriminator, as functions."""
        logits, source = self.logits(inputs), inputs.roll(1, dims=1)
        return (
            lambda: logits.square().mean() + SHARES[0] * self.holistic(logits, source),
            lambda: SHARES[1] * self.holistic.discriminator_loss(logits, source),
        )

    def forward(self, inputs, mode='loss'):
        learner, discriminator = self.terms(inputs)
        return {'loss': learner(), 'loss.discriminator': discriminator()}

    def parts(self):
        own = list(self.holistic.parameters())
        return [p for p in self.parameters() if not any(p is other for other in own)], own


def settings(main='sgd', **others):
    return dict(
        optimizer=MAINS[main],
        discriminator_optimizer=OWN,
        constructor=DiscriminatorOptimWrapperConstructor,
        **others,
    )


def images(steps):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 2, 64, 64, generator=generator) for _ in range(steps)]


def train(model, wrapper, batches):
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        with wrapper.optim_context(model):
            losses = model(batch)
        wrapper.update_params(sum(losses.values()))


def train_by_hand(model, optimizers, batches, every=1):
    """Step the learner, then the discriminator on the earlier logits, as the references do."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        for optimizer, term in zip(optimizers, model.terms(batch), strict=True):
            (term() / every).backward()
            if (step + 1) % every == 0:
                optimizer.step()
                optimizer.zero_grad()


def optimizers_by_hand(model, main='sgd'):
    return [
        chosen['type'](params, **{key: value for key, value in chosen.items() if key != 'type'})
        for params, chosen in zip(model.parts(), (MAINS[main], OWN), strict=True)
    ]


def assert_same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def assert_all_moved(model, before):
    kernels = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    assert len(kernels) == 2 + 4 + 2 * 3 + 1  # Some biases have no effect on the losses.
    for name, value in kernels.items():
        assert not torch.equal(value, before.get_parameter(name)), name


@pytest.mark.parametrize('main', MAINS)
@pytest.mark.parametrize('kind', ['hinge', 'wgan-gp'])
def test_steps_match_two_alternating_optimizers(main, kind):
    model, expected = Classroom(kind), Classroom(kind)
    train(model, build_optim_wrapper(model, settings(main)), images(4))
    train_by_hand(expected, optimizers_by_hand(expected, main), images(4))
    assert_same_weights(model, expected)
    assert_all_moved(model, Classroom(kind))


def test_gradients_accumulate_for_both_optimizers():
    model, expected = Classroom(), Classroom()
    train(model, build_optim_wrapper(model, settings(accumulative_counts=2)), images(4))
    train_by_hand(expected, optimizers_by_hand(expected), images(4), every=2)
    assert_same_weights(model, expected)


def test_discriminator_uses_the_learner_settings_without_the_constructor():
    model, expected = Classroom(), Classroom()
    train(model, build_optim_wrapper(model, dict(optimizer=MAINS['sgd'])), images(3))
    optimizers = [SGD(part, 0.2, 0.9, weight_decay=1e-3) for part in expected.parts()]
    train_by_hand(expected, optimizers, images(3))
    assert_same_weights(model, expected)
    assert_all_moved(model, Classroom())


def test_gradients_are_clipped_together():
    model = Classroom()
    wrapper = build_optim_wrapper(model, settings(clip_grad=dict(max_norm=1e-3)))
    clipped = []
    wrapper.optimizer.register_step_pre_hook(
        lambda *_: clipped.extend(p.grad.clone() for p in model.parameters())
    )
    train(model, wrapper, images(1))
    assert len(clipped) == len(list(model.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in clipped]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


NAMED = """
optim_wrapper = dict(
    type='mmkdml.CPUAmpOptimWrapper',
    constructor='mmkdml.DiscriminatorOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.2),
    discriminator_optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99)),
    paramwise_cfg=dict(bias_lr_mult=2.0),
)
"""
IMPORTED = """
from torch.optim import SGD, Adam
from mmkdml.engine import CPUAmpOptimWrapper, DiscriminatorOptimWrapperConstructor
""" + NAMED.replace('mmkdml.', '').replace("'", '')


@pytest.mark.parametrize('text', [NAMED, IMPORTED], ids=['named', 'imported'])
def test_config_file_is_built_and_not_changed(text, tmp_path):
    (tmp_path / 'config.py').write_text(text)
    config = Config.fromfile(tmp_path / 'config.py').optim_wrapper
    before = copy.deepcopy(config)
    wrapper = build_optim_wrapper(Classroom(), config)
    assert config == before
    assert type(wrapper) is CPUAmpOptimWrapper
    assert [type(part) for part in wrapper.optimizer.parts] == [SGD, Adam]
    groups = wrapper.optimizer.param_groups
    assert {group['lr'] for group in groups} == {0.2, 0.4, 4e-4}
    assert all(type(group) is dict for group in groups)  # Can be saved in a checkpoint.


def groups_of(parameters, model):
    """Return parameter names, learning rate and weight decay of each group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        ([names[parameter] for parameter in group['params']], group['lr'], group['weight_decay'])
        for group in parameters
    ]


@pytest.mark.parametrize(
    'paramwise',
    [None, dict(norm_decay_mult=0.0, bias_lr_mult=2.0), dict(custom_keys={'head': {'lr_mult': 5}})],
)
def test_learner_groups_match_mmengine_without_a_discriminator(paramwise):
    model, bare = Classroom(), Classroom()
    del bare.holistic
    wrapper = build_optim_wrapper(model, settings(paramwise_cfg=paramwise))
    expected = DefaultOptimWrapperConstructor(dict(optimizer=MAINS['sgd']), paramwise)(bare)
    learners, discriminators = wrapper.optimizer.parts
    assert groups_of(learners.param_groups, model) == groups_of(
        expected.optimizer.param_groups, bare
    )
    own = [f'holistic.{name}' for name, _ in model.holistic.named_parameters()]
    assert groups_of(discriminators.param_groups, model) == [(own, 4e-4, 0)]
    assert wrapper.optimizer.param_groups == learners.param_groups + discriminators.param_groups
    plain = Adam([nn.Parameter(torch.zeros(1))])  # Without settings of the learners.
    assert discriminators.param_groups[0].keys() == plain.param_groups[0].keys()


def test_all_discriminators_share_one_optimizer():
    model = nn.ModuleList([Classroom(), Classroom(), nn.Linear(2, 2)])
    model.append(HolisticLoss(2, 2, width=2))
    model[3].discriminator = model[0].holistic.discriminator
    wrapper = build_optim_wrapper(model, settings())
    learners, discriminators = (part.param_groups[0]['params'] for part in wrapper.optimizer.parts)
    assert len(learners) + len(discriminators) == len(list(model.parameters()))
    own = [*model[0].holistic.parameters(), *model[1].holistic.parameters()]
    assert len(discriminators) == len(own)
    assert all(one is other for one, other in zip(discriminators, own, strict=True))


def test_wrapped_model_has_the_same_groups():
    model = Classroom()
    chosen = settings(paramwise_cfg=dict(custom_keys={'module': dict(lr_mult=5)}))
    plain = build_optim_wrapper(model, chosen)
    wrapped = build_optim_wrapper(nn.DataParallel(model), chosen)  # Its only child is 'module'.
    assert groups_of(wrapped.optimizer.param_groups, model) == groups_of(
        plain.optimizer.param_groups, model
    )


@pytest.mark.parametrize('resumed', [False, True])
@pytest.mark.parametrize(
    ('scheduler', 'share'),
    [
        (functools.partial(CosineAnnealingLR, T_max=8), lambda t: (1 + math.cos(math.pi * t)) / 2),
        (functools.partial(PolyLR, power=0.9, end=9), lambda t: (1 - t) ** 0.9),
    ],
)
def test_schedulers_change_both_learning_rates(scheduler, share, resumed):
    model = Classroom()
    wrapper = build_optim_wrapper(model, settings())
    schedule = scheduler(wrapper)
    if resumed:  # Loading replaces the groups.
        wrapper.load_state_dict(wrapper.state_dict())
    for step, batch in enumerate(images(3), 1):
        train(model, wrapper, [batch])
        schedule.step()
        rates = [part.param_groups[0]['lr'] for part in wrapper.optimizer.parts]
        assert rates == pytest.approx([0.2 * share(step / 8), 4e-4 * share(step / 8)])
        assert wrapper.get_lr()['lr'] == rates
        assert wrapper.get_lr()['base_lr'] == pytest.approx(rates[:1])


@pytest.mark.parametrize('main', MAINS)
def test_training_continues_from_a_saved_state(main, tmp_path):
    model = Classroom()
    wrapper = build_optim_wrapper(model, settings(main))
    train(model, wrapper, images(2))
    torch.save(dict(model=model.state_dict(), optimizer=wrapper.state_dict()), tmp_path / 'a.pth')
    train(model, wrapper, images(2))

    resumed = Classroom()
    wrapper = build_optim_wrapper(resumed, settings(main))
    saved = torch.load(tmp_path / 'a.pth', weights_only=True)
    resumed.load_state_dict(saved['model'])
    wrapper.load_state_dict(saved['optimizer'])
    train(resumed, wrapper, images(2))
    assert_same_weights(resumed, model)


def test_copy_trains_identically_and_independently():
    model = Classroom()
    wrapper = build_optim_wrapper(model, settings())
    train(model, wrapper, images(1))
    copied, copied_optimizer = copy.deepcopy((model, wrapper.optimizer))
    before = copy.deepcopy(model)
    train(copied, OptimWrapper(copied_optimizer), images(2))
    assert_same_weights(model, before)
    train(model, wrapper, images(2))
    assert_same_weights(model, copied)


def test_cpu_amp_keeps_float32_weights():
    model = Classroom()
    train(model, build_optim_wrapper(model, settings(type=CPUAmpOptimWrapper)), images(2))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert_all_moved(model, Classroom())


@pytest.fixture
def amp_on_a_cpu(monkeypatch):
    """Make mmengine's wrapper, which requires a GPU, run on a CPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = functools.partial(torch.amp.GradScaler, device='cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    monkeypatch.setattr('mmengine.runner.amp.get_device', lambda: 'cpu')


@pytest.mark.parametrize('clip', [None, dict(max_norm=1e9)])
def test_loss_scaling_unscales_both_optimizers(amp_on_a_cpu, clip):
    scaled, plain = Classroom(), Classroom()
    wrapper = build_optim_wrapper(
        scaled, settings(type=AmpOptimWrapper, dtype='bfloat16', loss_scale=1024.0, clip_grad=clip)
    )
    train(scaled, wrapper, images(3))
    train(plain, build_optim_wrapper(plain, settings(type=CPUAmpOptimWrapper)), images(3))
    assert_same_weights(scaled, plain)  # Scaling by a power of two is exact.

    resumed = build_optim_wrapper(scaled, settings(type=AmpOptimWrapper, loss_scale=8.0))
    resumed.load_state_dict(wrapper.state_dict())
    assert resumed.loss_scaler.get_scale() == 1024


def test_overflow_of_one_skips_both_steps(amp_on_a_cpu):
    model = Classroom()
    wrapper = build_optim_wrapper(model, settings(type=AmpOptimWrapper, dtype='bfloat16'))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.holistic.discriminator.layers[0].weight.register_hook(lambda grad: grad * math.inf)
    scale = wrapper.loss_scaler.get_scale()
    train(model, wrapper, images(1))
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))
    assert wrapper.loss_scaler.get_scale() == scale / 2


def run(folder, resume=False):
    DefaultScope._instance_dict.clear()
    runner = Runner(
        model=Classroom('wgan-gp'),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=[dict(inputs=image) for image in torch.cat(images(2))],
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=settings(accumulative_counts=2),
        param_scheduler=dict(type='PolyLR', power=0.9, end=4),
        custom_hooks=[dict(type='mmkdml.ExactResumeHook')],
        randomness=dict(seed=3),
        default_scope='mmengine',
        experiment_name=f'{folder.name}',
        resume=resume,
        log_level='ERROR',
    )
    runner.train()
    return runner


@pytest.mark.parametrize('weights_only', ['', '1'])
def test_resumed_run_ends_identically(tmp_path, monkeypatch, weights_only):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', weights_only)
    full, half = tmp_path / f'full{weights_only}', tmp_path / f'half{weights_only}'
    expected = run(full)
    half.mkdir()
    shutil.copy(full / 'epoch_2.pth', half)
    (half / 'last_checkpoint').write_text(str(half / 'epoch_2.pth'))
    resumed = run(half, resume=True)
    assert_same_weights(resumed.model, expected.model)
    assert_all_moved(expected.model, Classroom('wgan-gp'))
    assert resumed.optim_wrapper.get_lr() == expected.optim_wrapper.get_lr()
    assert not (half / 'epoch_1.pth').exists()


def test_closure_is_called_once():
    weights = [nn.Parameter(torch.tensor([value])) for value in (3.0, 5.0)]
    optimizer = SeparateOptimizers(SGD(weights[:1], lr=0.5), SGD(weights[1:], lr=0.25))
    calls = []

    def closure():
        calls.append(1)
        loss = sum(weight.square().sum() for weight in weights)
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) == 9 + 25
    assert len(calls) == 1
    assert [float(weight) for weight in weights] == [3 - 0.5 * 6, 5 - 0.25 * 10]


@pytest.mark.parametrize('key', ['optimizer', 'discriminator_optimizer'])
@pytest.mark.parametrize('wrong', [None, dict(lr=0.1), 'Adam'])
def test_missing_optimizer_raises(key, wrong):
    with pytest.raises(ValueError, match=rf'optim_wrapper\.{key}: expected a dict with the type'):
        build_optim_wrapper(Classroom(), {**settings(), key: wrong})


def test_model_without_discriminator_raises():
    with pytest.raises(ValueError, match='expected .* discriminator_loss.* got Linear'):
        build_optim_wrapper(nn.Linear(2, 2), settings())


def test_parameter_of_two_parts_raises():
    weight = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match='more than one parameter group'):
        SeparateOptimizers(SGD([weight], lr=0.1), Adam([weight]))


def test_no_parts_raise():
    with pytest.raises(ValueError, match='empty parameter list'):
        SeparateOptimizers()


def test_group_of_no_part_raises():
    first, second, third = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizer = SeparateOptimizers(SGD([first], lr=0.1), Adam([second]))
    with pytest.raises(ValueError, match='expected a group of one of its parts'):
        optimizer.add_param_group(dict(params=[third]))


@pytest.mark.parametrize('main', MAINS)
def test_state_with_another_number_of_optimizers_raises(main):
    model = Classroom()
    wrapper = build_optim_wrapper(model, settings(main))
    plain = build_optim_wrapper(model, dict(optimizer=MAINS[main]))
    with pytest.raises(ValueError, match='expected 2 separate .* got a single .*load_from'):
        wrapper.load_state_dict(plain.state_dict())
    first, second = wrapper.optimizer.parts
    third = SeparateOptimizers(first, second, SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    with pytest.raises(ValueError, match='expected 2 separate optimizers, got 3'):
        wrapper.load_state_dict(third.state_dict())
