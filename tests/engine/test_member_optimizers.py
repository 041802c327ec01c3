import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch.optim import SGD, AdamW

from mmkdml.engine import MemberOptimWrapperConstructor
from mmkdml.models import KnowledgeDistiller, Transfer
from mmkdml.registry import MODELS

VIT = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16),
        img_size=32,
        patch_size=16,
    ),
    head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=2, in_channels=8),
)
RESNET = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.ResNet', depth=50, stem_channels=4, base_channels=4),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=128),
)
CONVNEXT = dict(
    type='mmseg.EncoderDecoder',
    backbone=dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 3, 1], channels=[4, 8, 8, 8]),
        gap_before_final_norm=False,
    ),
    decode_head=dict(type='mmseg.FCNHead', in_channels=8, channels=4, num_classes=2, num_convs=1),
)
OPTIMIZER = dict(type=AdamW, lr=1e-2, weight_decay=0.05)
DECAY = dict(
    constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5, norm_decay_mult=0.0),
)
STAGES = dict(
    constructor='mmseg.LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(num_layers=4, decay_rate=0.5, decay_type='stage_wise'),
)
LAYERS = dict(STAGES, paramwise_cfg=dict(num_layers=6, decay_rate=0.5, decay_type='layer_wise'))


def classroom(a, b):
    return KnowledgeDistiller(
        members=dict(a=a, b=b), transfers=[Transfer('a', 'b', 'predictions', 0.5)],
        input_size=(32, 32),
    )  # fmt: skip


def rates(wrapper, module, prefix=''):
    """Return learning rate and weight decay of each parameter of a module, by name."""
    found = {}
    for group in wrapper.optimizer.param_groups:
        for one in group['params']:
            assert id(one) not in found
            found[id(one)] = group['lr'], group['weight_decay']
    return {
        name.removeprefix(prefix): found.get(id(one)) for name, one in module.named_parameters()
    }


def build(model, **settings):
    return build_optim_wrapper(model, dict(optimizer=copy.deepcopy(OPTIMIZER), **settings))


def own(**members):
    return dict(constructor='mmkdml.MemberOptimWrapperConstructor', members=members)


@pytest.mark.parametrize(
    ('config', 'settings'), [(VIT, DECAY), (RESNET, DECAY), (CONVNEXT, STAGES), (CONVNEXT, LAYERS)]
)
def test_groups_of_a_member_equal_those_of_the_plain_network(config, settings):
    plain = MODELS.build(copy.deepcopy(config))
    expected = rates(build(plain, **copy.deepcopy(settings)), plain)
    assert len({rate for rate, _ in expected.values()}) > 3
    model = classroom(config, config)
    wrapper = build(model, **own(a=settings))
    assert rates(wrapper, model.members.a) == expected
    assert {*rates(wrapper, model.members.b).values()} == {(1e-2, 0.05)}


def test_paramwise_cfg_applies_to_the_other_parameters():
    model = classroom(VIT, RESNET)
    wrapper = build(model, **own(a=DECAY), paramwise_cfg=dict(bias_decay_mult=0.0))
    others = rates(wrapper, model.members.b)
    assert others['head.fc.bias'] == (1e-2, 0.0)
    assert others['head.fc.weight'] == (1e-2, 0.05)
    plain = MODELS.build(copy.deepcopy(VIT))
    assert rates(wrapper, model.members.a) == rates(build(plain, **copy.deepcopy(DECAY)), plain)


def test_one_step_changes_all_parameters_once():
    model = classroom(RESNET, RESNET)
    sgd = dict(
        optimizer=dict(type=SGD, lr=1.0), **own(b=dict(paramwise_cfg=dict(bypass_duplicate=True)))
    )
    wrapper = build_optim_wrapper(model, sgd)
    before = copy.deepcopy(model.state_dict())
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    wrapper.step()
    for name, one in model.named_parameters():
        torch.testing.assert_close(one, before[name] - 1)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({}, r'optim_wrapper\.members: expected a dict .*, got None'),
        (dict(members=dict(a=dict(lr=1))), 'constructor and paramwise_cfg .*lr'),
        (dict(members=dict(c={})), r'trained members \(a, b\), got c'),
        (dict(members=dict(b=STAGES)), 'members.b: .*stage_wise.* ImageClassifier with ResNet'),
    ],
)
def test_invalid_settings(settings, message):
    model = classroom(VIT, RESNET)
    with pytest.raises(ValueError, match=message):
        build(model, constructor=MemberOptimWrapperConstructor, **settings)


def test_a_plain_network_is_refused():
    with pytest.raises(ValueError, match='expected a classroom, got ImageClassifier'):
        build(MODELS.build(copy.deepcopy(RESNET)), **own(a=DECAY))
