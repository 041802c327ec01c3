"""Schedules against mmengine's own schedulers of learning rates, and closed forms."""

import math

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

from mmkdml.models import Transfer
from mmkdml.models.weighting import LinearWeight, MultiStepWeight, WeightSchedule, schedules

BASE = 0.45
STEPS = 16


def scheduled(*configs, base=BASE, **length):
    weight = dict(base=base, schedule=list(configs))
    return WeightSchedule(Transfer('teacher', 'student', 'features', weight), **length)


def values(schedule, epoch_length=1):
    """Weights in the epochs, or in the iterations of epochs."""
    found = []
    for iteration in range(1, STEPS + 1):
        found.append(schedule.value)
        schedule.step(by_epoch=False)
        if iteration % epoch_length == 0:
            schedule.step(by_epoch=True)
    return found


def rates(configs, base=BASE, epoch_length=1):
    """Learning rates of mmengine's schedulers in a training."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=base)
    built = [
        PARAM_SCHEDULERS.build(
            dict(config, type=config['type'].replace('Weight', 'LR')),
            default_args=dict(optimizer=optimizer, epoch_length=epoch_length),
        )
        for config in configs
    ]
    found = []
    for iteration in range(1, STEPS + 1):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for one in built:
            if not one.by_epoch or iteration % epoch_length == 0:
                one.step()
    return found


CHAINS = {
    'constant': [dict(type='ConstantWeight', factor=0.25, begin=2, end=9)],
    'linear': [dict(type='LinearWeight', start_factor=0.1, end_factor=0.9, begin=1, end=7)],
    'cosine': [dict(type='CosineAnnealingWeight', T_max=5, eta_min=0.05)],  # rises again
    'cosine of a ratio': [dict(type='CosineAnnealingWeight', eta_min_ratio=0.2, begin=3, end=14)],
    'cosine upwards': [dict(type='CosineAnnealingWeight', T_max=6, eta_min=0.9, end=7)],
    'steps': [dict(type='MultiStepWeight', milestones=[2, 5, 5, 11], gamma=0.3)],
    'end': [dict(type='MultiStepWeight', milestones=[6], gamma=0.0)],
    'step': [dict(type='StepWeight', step_size=3, gamma=0.5, begin=1)],
    'exponential': [dict(type='ExponentialWeight', gamma=0.9, end=10)],
    'polynomial': [dict(type='PolyWeight', power=0.9, eta_min=0.01, end=12)],
    'warm-up and cosine': [
        dict(type='LinearWeight', start_factor=0.01, end=5),
        dict(type='CosineAnnealingWeight', T_max=10, begin=5, end=15, eta_min=0.02),
    ],
    'overlapping': [
        dict(type='CosineAnnealingWeight', T_max=12),
        dict(type='MultiStepWeight', milestones=[4, 8], gamma=0.5),
        dict(type='LinearWeight', start_factor=0.5, end=3),
    ],
}


@pytest.mark.parametrize('name', CHAINS)
def test_weights_equal_learning_rates(name):
    assert values(scheduled(*CHAINS[name])) == rates(CHAINS[name])


@pytest.mark.parametrize('by_epoch', [False, True])
@pytest.mark.parametrize('converted', [False, True])
def test_epochs_and_iterations(by_epoch, converted):
    chain = [
        dict(type='LinearWeight', start_factor=0.1, end=3, convert_to_iter_based=converted),
        dict(type='MultiStepWeight', milestones=[3], gamma=0.5, by_epoch=by_epoch),
    ]
    assert values(scheduled(*chain, epoch_length=4), 4) == rates(chain, epoch_length=4)


@pytest.mark.parametrize('kind', ['LinearWeight', 'CosineWarmupWeight'])
@pytest.mark.parametrize(('first', 'last'), [(0.0, 1.0), (0.2, 0.8), (1.0, 0.0), (0.0, 0.0)])
def test_warm_up_closed_form(kind, first, last):
    """mmengine divides by a factor of 0, and has no cosine warm-up."""
    begin, end = 2, 9
    shares = [min(max(t - begin, 0) / (end - begin - 1), 1) for t in range(STEPS)]
    if kind.startswith('Cosine'):
        shares = [(1 - math.cos(math.pi * share)) / 2 for share in shares]
    expected = [BASE * (first + (last - first) * share) for share in shares]
    expected[:begin] = [BASE] * begin
    chain = dict(type=kind, start_factor=first, end_factor=last, begin=begin, end=end)
    found = values(scheduled(chain))
    assert found == pytest.approx(expected, rel=1e-14, abs=1e-16)
    assert [value == 0 for value in found] == [one == 0 for one in expected]


@pytest.mark.parametrize('first', [1.0, 0.7, 1 / 3, 0.1])
def test_linear_weight_ends_at_exactly_0(first):
    for end in range(2, STEPS):
        config = dict(type='LinearWeight', start_factor=first, end_factor=0.0, end=end)
        found = values(scheduled(config))
        assert found[end - 2] > 0.0
        assert found[end - 1 :] == [0.0] * (STEPS - end + 1)


def test_pause_keeps_other_changes():
    """The factor of 0 ends one step before ``end``, as any factor of mmengine's scheduler."""
    pause = dict(type='ConstantWeight', factor=0.0, begin=2, end=6)
    halved = dict(type='MultiStepWeight', milestones=[3], gamma=0.5)
    found = values(scheduled(pause, halved))
    assert found == [BASE] * 2 + [0.0] * 3 + [BASE / 2] * (STEPS - 5)
    tiny = values(scheduled(dict(pause, factor=1e-9), halved))
    assert found == pytest.approx(tiny, rel=1e-12, abs=1e-8)


def test_cosine_warm_up_from_a_weight_of_zero():
    warm_up = dict(type='CosineAnnealingWeight', T_max=4, end=5, eta_min=BASE)
    found = values(scheduled(warm_up, base=0.0))
    expected = [BASE * (1 - math.cos(math.pi * min(t, 4) / 4)) / 2 for t in range(STEPS)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize('kind', ['LinearWeight', 'CosineAnnealingWeight', 'CosineWarmupWeight'])
def test_schedules_end_with_the_training(kind):
    assert values(scheduled(dict(type=kind), max_epochs=7, max_iters=5)) == values(
        scheduled(dict(type=kind, end=7))
    )
    iterations = dict(type=kind, by_epoch=False)
    assert values(scheduled(iterations, max_epochs=7, max_iters=5)) == values(
        scheduled(dict(iterations, end=5))
    )


def test_constant_factor_does_not_end_with_the_training():
    """mmengine would restore the weight in the last epoch."""
    found = values(scheduled(dict(type='ConstantWeight', factor=0.0, begin=3), max_epochs=STEPS))
    assert found == [BASE] * 3 + [0.0] * (STEPS - 3)


def test_types_are_names_with_scope_and_classes():
    linear = dict(start_factor=0.5, end=4)
    kinds = ('LinearWeight', 'mmkdml.LinearWeight', LinearWeight)
    found = [values(scheduled(dict(linear, type=kind))) for kind in kinds]
    assert found[0] == found[1] == found[2]
    assert {'ConstantWeight', 'LinearWeight', 'CosineAnnealingWeight', 'MultiStepWeight'} < set(
        schedules.SCHEDULES
    )


@pytest.mark.parametrize(
    ('config', 'facts'),
    [
        (dict(type='LinearLR', end=5), ['LinearLR', 'LinearWeight']),
        (dict(type='Linear', end=5), ["'Linear'", 'MultiStepWeight']),
        (dict(type='LinearWeight', factor=0.5), ['LinearWeight', 'factor']),
        (dict(type='LinearWeight', start_factor=1.5), ['LinearWeight', 'start_factor', '1.5']),
        (dict(type='LinearWeight', begin=5, end=5), ['begin=5', 'end=5']),
        (dict(type='LinearWeight', param_name='lr'), ['param_name']),
        (dict(type='CosineAnnealingWeight', eta_min=0.1, eta_min_ratio=0.1), ['eta_min_ratio']),
        (dict(type=MultiStepWeight, milestones=[1.5]), ['milestones', '1.5']),
        (dict(type=MultiStepWeight, milestones='12'), ['milestones', "'12'"]),
        (dict(type=MultiStepWeight), ['MultiStepWeight', 'milestones']),
        (dict(type='StepWeight', step_size=0.5), ['step_size', '0.5']),
    ],
)
def test_invalid_schedules_raise(config, facts):
    with pytest.raises(ValueError, match='schedule') as error:
        scheduled(config)
    assert [fact for fact in facts if fact not in str(error.value)] == []


def test_negative_weights_raise():
    rise = dict(type='CosineAnnealingWeight', T_max=2, eta_min=0.9)
    fall = dict(type='MultiStepWeight', milestones=[2], gamma=0.01)
    schedule = scheduled(rise, fall)
    with pytest.raises(ValueError, match='at least 0, got -0'):
        values(schedule)
