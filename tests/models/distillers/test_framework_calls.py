"""Functions and tools of the frameworks that are made for one network, called with a classroom."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import AverageClsScoreTTA
from mmseg.apis import init_model
from mmseg.models.segmentors import SegTTAModel
from torch.optim import SGD

from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'


@pytest.fixture(scope='module', params=['kdml_v3_demo', 'kdml_v3_demo_slices'])
def classroom(request):
    return MODELS.build(Config.fromfile(DEMO / f'{request.param}.py').model)


def test_missing_parts_name_the_members(classroom):
    for name in ('backbone', 'extract_feat', 'num_classes'):
        assert not hasattr(classroom, name)
        with pytest.raises(AttributeError, match=f'no {name}.*teacher, student_1, student_2'):
            getattr(classroom, name)
    with pytest.raises(AttributeError, match="no attribute 'other'$"):
        _ = classroom.other


def test_init_model_of_mmseg():
    config = Config.fromfile(DEMO / 'kdml_v3_demo.py')
    with pytest.raises(TypeError, match=r'pretrained.*mmkdml\.apis\.load.*tools/export\.py'):
        init_model(config, device='cpu', cfg_options=dict(default_scope='mmseg'))


def test_weights_of_a_member_are_refused(classroom):
    """mmengine would log a warning and continue with random weights."""
    weights = classroom.members.student_1.state_dict()
    with pytest.raises(ValueError, match=r'members\.teacher.*got those of .*backbone'):
        load_state_dict(classroom, weights)
    with pytest.raises(ValueError, match='another network'):
        classroom.load_state_dict(weights, strict=False)
    classroom.load_state_dict(classroom.state_dict())


@pytest.mark.parametrize('kind', [SegTTAModel, AverageClsScoreTTA])
def test_stock_tta_is_refused(classroom, kind):
    """mmpretrain's would report members without augmentation next to an augmented ensemble."""
    with pytest.raises(TypeError, match=rf'{kind.__name__}.*mmkdml\.MemberTTA'):
        kind(classroom)
    network = classroom.members.student_1
    assert kind(network).module is network


def groups(model, constructor, **settings):
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type=SGD, lr=1.0, weight_decay=0.1),
            constructor=constructor,
            paramwise_cfg=copy.deepcopy(settings),
        ),
    )
    rates = {
        id(one): group['lr'] for group in wrapper.optimizer.param_groups for one in group['params']
    }
    return {name: rates[id(one)] for name, one in model.named_parameters()}


def test_layer_decay_of_mmpretrain_works_by_member():
    config = Config.fromfile(DEMO / 'kdml_v3_demo_slices.py')
    for member in (config.model.teacher, *config.model.students):
        member.backbone.depth = 50
        (member.get('neck') if 'in_channels' in member.neck else member.head).in_channels *= 4
    config.model.projectors = dict(type='mmkdml.ConvProjector')
    model = MODELS.build(config.model)
    constructor = 'mmpretrain.LearningRateDecayOptimWrapperConstructor'
    found = groups(model, constructor, layer_decay_rate=0.5)
    for name, member in model.members.items():
        plain = groups(member, constructor, layer_decay_rate=0.5)
        assert len({*plain.values()}) > 3
        prefix = f'members.{name}.'
        assert {
            key[len(prefix) :]: rate for key, rate in found.items() if key.startswith(prefix)
        } == plain
    others = {rate for key, rate in found.items() if not key.startswith('members.')}
    assert others == {1.0}


@pytest.mark.parametrize(
    ('constructor', 'error', 'settings'),
    [
        ('mmseg.LearningRateDecayOptimizerConstructor', AttributeError, dict(decay_rate=0.5)),
        ('mmpretrain.LearningRateDecayOptimWrapperConstructor', NotImplementedError, {}),
    ],
)
def test_layer_decay_that_does_not_fit_names_the_constructor(constructor, error, settings):
    model = MODELS.build(Config.fromfile(DEMO / 'kdml_v3_demo.py').model)
    with pytest.raises(error, match='MemberOptimWrapperConstructor'):
        groups(model, constructor, num_layers=4, **settings)
