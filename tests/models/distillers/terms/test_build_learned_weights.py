"""Learned weights of whole classrooms, for both tasks."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmkdml.engine import CPUAmpOptimWrapper
from mmkdml.models import GradNorm, KnowledgeDistiller, Transfer, UncertaintyWeighting

KINDS = ['UncertaintyWeighting', 'GradNorm']
TRANSFERS = [('predictions', 0.3), ('features', 0.5)]


def pair(tiny, task, kind, **settings):
    torch.manual_seed(0)
    return tiny.pair(task, TRANSFERS, learned_weights=dict(type=kind), **settings)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('wrapper', [OptimWrapper, CPUAmpOptimWrapper])
def test_all_parameters_are_trained(task, tiny, kind, wrapper):
    model = pair(tiny, task, kind).train()
    before = copy.deepcopy(dict(model.learned_weights.named_parameters()))
    optimizer = wrapper(torch.optim.SGD(model.parameters(), lr=0.01), accumulative_counts=2)
    for step in range(4):
        with optimizer.optim_context(model):
            losses = model(*task.batch(), mode='loss')
        total, values = model.parse_losses(losses)
        assert all(value.isfinite().all() for key, value in values.items() if 'loss' in key)
        optimizer.update_params(total)
        if step == 0:
            assert [name for name, x in model.named_parameters() if x.grad is None] == []
    for name, parameter in model.learned_weights.named_parameters():
        assert not torch.equal(parameter, before[name])
    assert set(losses) > {
        'student.weight_supervised',
        'student.weight_from_teacher.predictions',
        'student.weight_from_teacher.features',
    }
    assert not any(key.startswith('teacher.weight') for key in losses)


@pytest.mark.parametrize('kind', KINDS)
def test_first_losses_are_those_of_fixed_weights(task, tiny, kind):
    """Their factors are 1, and 1/2 for features with uncertainty weighting."""
    model, plain = pair(tiny, task, kind), tiny.pair(task, TRANSFERS)
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing == []
    assert {key.partition('.')[0] for key in unexpected} == {'learned_weights'}
    found, expected = (one(*task.batch(), mode='loss') for one in (model, plain))
    for key, value in expected.items():
        half = kind == 'UncertaintyWeighting' and key.endswith('features')
        torch.testing.assert_close(found[key], value / 2 if half else value)


def test_losses_of_every_learner(tiny):
    tap = 'backbone.layer3'
    model = KnowledgeDistiller(
        members=dict(t=tiny.classifier(), a=tiny.classifier(), b=tiny.classifier()),
        transfers=[
            Transfer('t', 'a', 'features', 0.5),
            Transfer('t', 'a', 'features', 0.2, source_tap=tap, learner_tap=tap),
            Transfer('b', 'a', 'predictions', 0.0),
            dict(source='a', learner='b', knowledge='predictions', weight=0.3),
        ],
        supervised_weights=dict(a=0.1, b=0.0),
        frozen=dict(t=None),
        learned_weights=dict(type=UncertaintyWeighting),
        input_size=tiny.size,
    )
    rows = {
        learner: [(row.key, row.weight, row.knowledge) for row in its]
        for learner, its in model.learned_weights.losses.items()
    }
    assert rows == dict(
        a=[
            ('', 0.1, ''),
            ('a.loss_from_t.features', 0.5, 'features'),
            ('a.loss_from_t.features_2', 0.2, 'features'),
        ],
        b=[('b.loss_from_a.predictions', 0.3, 'predictions')],
    )


def test_layer_of_grad_norm_is_the_last_one_of_the_default_tap(task, tiny):
    names = dict(
        classification='backbone.layer4.1.conv2.weight',
        segmentation='decode_head.blocks.0.conv2.conv.weight',
        detection='neck.fpn_convs.0.conv.weight',
    )
    assert pair(tiny, task, 'GradNorm').learned_weights.shared == dict(student=[names[task.name]])


def test_copies_train_their_own_weights(task, tiny):
    model = pair(tiny, task, 'GradNorm')
    other = copy.deepcopy(model)
    other(*task.batch(), mode='loss')
    assert not other.learned_weights.initial_student.isnan().any()
    assert model.learned_weights.initial_student.isnan().all()


@pytest.mark.parametrize(
    ('learned', 'transfers', 'fact'),
    [
        (dict(type='GradNorm'), [], 'at least one transfer'),
        (dict(type='GradNorm', beta=1), TRANSFERS, 'learned_weights.*beta'),
        (dict(type='FeatureMSELoss'), TRANSFERS, 'UncertaintyWeighting.*FeatureMSELoss'),
        ('GradNorm', TRANSFERS, "learned_weights must be .*config, got 'GradNorm'"),
        (
            dict(type=GradNorm),
            [('features', dict(base=0.5, schedule=dict(type='LinearWeight')))],
            'teacher -> student features.*got both',
        ),
    ],
)
def test_invalid_learned_weights_raise(task, tiny, learned, transfers, fact):
    with pytest.raises(ValueError, match=fact):
        tiny.pair(task, transfers, learned_weights=learned)
