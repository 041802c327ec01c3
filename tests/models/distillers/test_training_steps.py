"""Gradient accumulation, weight averaging and skipped steps, compared with plain steps."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from mmkdml.engine import CPUAmpOptimWrapper, DiscriminatorOptimWrapperConstructor
from mmkdml.models import DiversifiedKDMLDistiller, FocalDiceLoss

MOMENTUM = 0.25


def classroom(task, mode='kdml', **settings):
    """Build style v3 with batch norm in eval mode."""
    teacher, student = task.teacher(), task.student()
    if task.name == 'segmentation':
        for member in (teacher, student):  # Dice is computed over the batch
            member['decode_head']['loss_decode'] = dict(type=FocalDiceLoss, dice_weight=0)
    weights = dict(alpha=(0.2, 0.4), beta=(0.4, 0.3))
    if mode == 'kdml':
        weights['gamma'] = (0.4, 0.3)
    model = DiversifiedKDMLDistiller(
        mode=mode,
        style='v3',
        teacher=teacher,
        students=[student, student],
        weights=weights,
        input_size=(32, 32),
        **settings,
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def step(model, wrapper, inputs, samples):
    with wrapper.optim_context(model):
        losses = model(inputs, samples, mode='loss')
    wrapper.update_params(model.parse_losses(losses)[0])


@pytest.mark.parametrize('task', ['classification', 'segmentation'], indirect=True)
def test_accumulated_batches_equal_one_large_batch(task):
    """The last accumulation has fewer batches; losses of detectors depend on the whole batch."""
    model = classroom(task)
    twin = copy.deepcopy(model)
    optimise = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    wrapper = OptimWrapper(optimise(model.parameters()), accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 5)
    inputs, samples = task.batch(10)
    before = weights_of(model)
    for start in range(0, 10, 2):
        step(model, wrapper, inputs[start : start + 2], samples[start : start + 2])
    twin_wrapper = OptimWrapper(optimise(twin.parameters()))
    for part in (slice(6), slice(6, 10)):
        step(twin, twin_wrapper, inputs[part], samples[part])
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(weight, twin.get_parameter(name).data, atol=1e-6, rtol=0)
    assert max((before[name] - w).abs().max() for name, w in weights_of(model).items()) > 1e-3


def test_students_are_averaged_and_the_frozen_teacher_is_shared(task, tmp_path):
    teacher = classroom(task, 'kd_off').teacher
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    torch.manual_seed(1)
    model = classroom(task, 'kd_off', teacher_checkpoint=str(tmp_path / 'teacher.pth'))
    hook = EMAHook(momentum=MOMENTUM)
    runner = SimpleNamespace(model=model, iter=0, epoch=0, _resume=True)
    hook.before_run(runner)
    average = hook.ema_model.module
    assert average.teacher is model.teacher
    assert {*weights_of(average)} == {*weights_of(model)}
    assert not any('teacher' in name for name in hook.ema_model.avg_parameters)

    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    trajectory = []
    for _ in range(3):
        step(model, wrapper, *task.batch())
        hook.after_train_iter(runner, 0)
        trajectory.append(weights_of(model))
    # The average starts with the weights after the first step.
    shares = ((1 - MOMENTUM) ** 2, MOMENTUM * (1 - MOMENTUM), MOMENTUM)
    for name, weight in weights_of(average).items():
        expected = sum(
            share * weights[name] for share, weights in zip(shares, trajectory, strict=True)
        )
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)

    hook.before_val_epoch(runner)
    torch.testing.assert_close(weights_of(average), trajectory[-1], atol=0, rtol=0)
    hook.after_val_epoch(runner)
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name])

    checkpoint = dict(state_dict=copy.deepcopy(model.state_dict()))
    hook.before_save_checkpoint(runner, checkpoint)
    checkpoint = copy.deepcopy(checkpoint)
    saved = weights_of(average)
    assert not any('teacher' in key for part in checkpoint.values() for key in part)
    assert all(torch.equal(checkpoint['state_dict'][name], saved[name]) for name in saved)
    step(model, wrapper, *task.batch())
    hook.after_train_iter(runner, 0)
    hook.after_load_checkpoint(runner, checkpoint)
    torch.testing.assert_close(weights_of(average), saved, atol=0, rtol=0)
    assert all(torch.equal(checkpoint['state_dict'][k], v) for k, v in trajectory[-1].items())


def two_optimizers(model, **settings):
    """Return the parameters of the learners and of the discriminator."""
    settings = dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
        discriminator_optimizer=dict(type='Adam', lr=1e-3),
        **settings,
    )
    return DiscriminatorOptimWrapperConstructor(settings)(model)


@pytest.mark.parametrize('overflow', ['members.student.', '.discriminator.'])
def test_overflow_skips_the_step_of_all_members(monkeypatch, tiny, overflow):
    """mmengine's AmpOptimWrapper on a CPU, with autocast to bfloat16."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = partial(torch.amp.GradScaler, device='cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    model = tiny.compared('skd_adversarial_segmentation')
    twin = copy.deepcopy(model)
    first, second = (tiny.compared_batch('skd_adversarial_segmentation', seed=n) for n in (1, 2))
    wrapper = two_optimizers(model, type=AmpOptimWrapper, loss_scale=dict(init_scale=2.0**10))
    before = weights_of(model)

    name = next(name for name in before if overflow in name)
    broken = model.get_parameter(name).register_hook(lambda gradient: gradient * torch.inf)
    step(model, wrapper, *first)
    broken.remove()
    torch.testing.assert_close(weights_of(model), before, atol=0, rtol=0)
    assert [len(part.state) for part in wrapper.optimizer.parts] == [0, 0]
    assert wrapper.loss_scaler.get_scale() == 2.0**9

    step(model, wrapper, *second)
    # In the twin the first batch changes only what a forward pass changes.
    plain = two_optimizers(twin, type=CPUAmpOptimWrapper)
    with plain.optim_context(twin):
        twin(*first, mode='loss')
    step(twin, plain, *second)
    torch.testing.assert_close(weights_of(model), weights_of(twin), atol=1e-6, rtol=1e-4)
    moved = [
        key for key, weight in weights_of(model).items() if not torch.equal(weight, before[key])
    ]
    assert {part.partition('.')[0] for part in moved} == {'members', 'transfer_modules'}
    assert wrapper.loss_scaler.get_scale() == 2.0**9
