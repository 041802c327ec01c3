"""Frozen members with pretrained weights in their configs."""

import json

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.models import ResNet
from timm.models import adapt_input_conv

from mmkdml.files import file_sha256
from mmkdml.models import KnowledgeDistiller, Transfer


@pytest.fixture
def teacher(tiny, tmp_path):
    """Return a network and its file; all parameters differ from those of a new network."""
    network = MODELS.build(tiny.classifier())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5)
    for name in ('teacher.pth', 'intact.pth'):
        torch.save(dict(state_dict=network.state_dict()), tmp_path / name)
    return network, tmp_path / 'teacher.pth'


def pretrained(path, **settings):
    return dict(type='Pretrained', checkpoint=str(path), **settings)


def classroom(tiny, member, **settings):
    return KnowledgeDistiller(
        members=dict(teacher=member, student=tiny.classifier()),
        transfers=[Transfer('teacher', 'student', 'predictions', 1.0)],
        **{'frozen': dict(teacher=None), 'input_size': tiny.size, **settings},
    )


def in_parts(tiny, path, head=None):
    config = tiny.classifier()
    config['backbone']['init_cfg'] = [dict(type='Kaiming'), pretrained(path, prefix='backbone.')]
    config['head']['init_cfg'] = head
    return config


def with_head(tiny, path, **backbone):
    """Network with weights for the head, and a file for the backbone."""
    config = in_parts(tiny, path, pretrained(path.with_name('intact.pth'), prefix='head'))
    config['backbone'].update(init_cfg=pretrained(path), **backbone)
    return config


def assert_same(network, expected):
    weights = network.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    assert all(torch.equal(one, weights[key]) for key, one in expected.state_dict().items())


@pytest.mark.parametrize('how', ['network', 'parts'])
def test_pretrained_weights_are_loaded_at_build(tiny, teacher, how):
    network, path = teacher
    config = dict(tiny.classifier(), init_cfg=pretrained(path))
    if how == 'parts':
        config = in_parts(tiny, path, pretrained(path, prefix='head'))
    distiller = classroom(tiny, config)
    assert_same(distiller.named_members()['teacher'], network)
    distiller.init_weights()  # like the runner before training
    assert_same(distiller.named_members()['teacher'], network)
    assert not any(p.requires_grad for p in distiller.named_members()['teacher'].parameters())
    record = json.loads(bytes(distiller.state_dict()['frozen_members'].tolist()))
    names = ['teacher'] if how == 'network' else ['teacher.backbone', 'teacher.head']
    assert record == {
        name: dict(path=str(path), sha256=file_sha256(path), fused=True) for name in names
    }


def test_checkpoint_of_the_member_overrides_pretrained_weights(tiny, teacher, tmp_path):
    network, path = teacher
    config = dict(tiny.classifier(), init_cfg=pretrained(tmp_path / 'absent.pth'))
    distiller = classroom(tiny, config, frozen=dict(teacher=str(path)))
    assert_same(distiller.named_members()['teacher'], network)


@pytest.mark.parametrize('where', ['network', 'backbone'])
def test_missing_file_raises(tiny, teacher, where):
    absent = teacher[1].with_name('absent.pth')
    config = dict(tiny.classifier(), init_cfg=pretrained(absent))
    if where == 'backbone':
        config = with_head(tiny, absent)
    with pytest.raises(FileNotFoundError, match=r'absent\.pth'):
        classroom(tiny, config)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('backbone.bn1.weight', None, 'missing: {}'),
        ('head.fc.bias', torch.zeros(9), r'{}: expected shape \(3,\), got \(9,\)'),
        ('extra', torch.zeros(1), 'unexpected: {}'),
        ('backbone.bn1.running_var', torch.full((4,), torch.inf), '{}: 0 NaN and 4 infinite'),
        ('head.fc.bias', torch.full((3,), torch.nan), '{}: 3 NaN'),
    ],
)
def test_file_that_does_not_fit_raises(tiny, teacher, key, value, message):
    network, path = teacher
    weights = {**network.state_dict(), key: value}
    torch.save({k: one for k, one in weights.items() if one is not None}, path)
    with pytest.raises(ValueError, match=rf'teacher.*\({message.format(key)}'):
        classroom(tiny, dict(tiny.classifier(), init_cfg=pretrained(path)))


def test_backbone_is_loaded_from_a_larger_file(tiny, teacher):
    network, path = teacher
    torch.save({**network.backbone.state_dict(), 'fc.weight': torch.zeros(1)}, path)
    config = with_head(tiny, path)
    distiller = classroom(tiny, config)
    assert_same(distiller.named_members()['teacher'].backbone, network.backbone)
    short = network.backbone.state_dict()
    del short['layer4.1.conv2.weight']
    torch.save(short, path)
    with pytest.raises(ValueError, match=r'teacher \(backbone\)(?s:.*)missing: layer4\.1\.conv2'):
        classroom(tiny, config)


@MODELS.register_module()
class RenamingResNet(ResNet):
    """Backbone that converts the names of weights, like Swin of MMSegmentation."""

    def init_weights(self):
        weights = torch.load(self.init_cfg['checkpoint'])
        self.load_state_dict({key.removeprefix('their.'): one for key, one in weights.items()})


def test_backbone_may_convert_names_of_weights(tiny, teacher):
    network, path = teacher
    theirs = {f'their.{key}': one for key, one in network.backbone.state_dict().items()}
    torch.save(theirs, path)
    config = with_head(tiny, path, type=RenamingResNet)
    distiller = classroom(tiny, config)
    assert_same(distiller.named_members()['teacher'].backbone, network.backbone)
    config['backbone'].update(type=ResNet)  # loads none of them
    with pytest.raises(ValueError, match=r'teacher \(backbone\)(?s:.*)missing: conv1\.weight'):
        classroom(tiny, config)


@pytest.mark.parametrize(('part', 'where'), [('none', 'backbone, head'), ('backbone', 'head')])
def test_frozen_member_with_random_weights_raises_in_training(tiny, teacher, part, where):
    config = tiny.classifier()
    if part == 'backbone':  # not downloaded, because the head would stay random
        config['backbone']['init_cfg'] = pretrained('https://localhost/absent.pth')
    distiller = classroom(tiny, config)  # can be inspected
    distiller.load_state_dict(distiller.state_dict())
    with pytest.raises(
        ValueError, match=rf'frozen teacher has no weights for {where}: .*frozen\.t'
    ):
        distiller.init_weights()
    with pytest.raises(ValueError, match='frozen teacher has no weights'):
        distiller.check_frozen_weights()


def test_module_without_checkpoint_keeps_its_weights(tiny, teacher, caplog):
    network, _ = teacher
    before = MODELS.build(tiny.classifier())
    before.load_state_dict(network.state_dict())
    before.init_cfg = pretrained('absent.pth')
    distiller = classroom(tiny, before)
    distiller.init_weights()
    assert_same(distiller.named_members()['teacher'], network)


def test_first_layer_is_adapted_only_when_asked_for(tiny, teacher):
    network, path = teacher
    config, student = tiny.classifier(), tiny.classifier()
    for one in (config, student):
        one['backbone'].update(in_channels=4)

    def build(checkpoint):
        return KnowledgeDistiller(
            dict(teacher=dict(config, init_cfg=pretrained(checkpoint)), student=student),
            [Transfer('teacher', 'student', 'predictions', 1.0)],
            frozen=dict(teacher=None),
            input_size=tiny.size,
        )

    with pytest.raises(ValueError, match=r'frozen teacher.*got \(4, 3, 7, 7\).*in_chans=4:FILE'):
        build(path)
    model = build(f'in_chans=4:{path}')
    weights = model.named_members()['teacher'].state_dict()
    for key, value in network.state_dict().items():
        first = key == 'backbone.conv1.weight'
        assert torch.equal(weights[key], adapt_input_conv(4, value) if first else value)
    assert model.frozen_files == dict(teacher=str(path))
    model.init_weights()
    student['backbone']['init_cfg'] = pretrained(path, prefix='backbone.')
    with pytest.raises(ValueError, match=r'fit student .backbone.: .* 4 channels.*in_chans=4:FILE'):
        build(f'in_chans=4:{path}').init_weights()
    student['backbone']['init_cfg'] = pretrained(f'in_chans=4:{path}', prefix='backbone.')
    learner = build(f'in_chans=4:{path}')
    learner.init_weights()
    first = learner.members.student.backbone.conv1.weight
    assert torch.equal(first, adapt_input_conv(4, network.backbone.conv1.weight))
    assert model(torch.randn(2, 4, *tiny.size), mode='tensor')['teacher'].shape == (2, 3)
