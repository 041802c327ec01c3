import pytest
import torch
from mmpretrain.models import ImageClassifier, LinearClsHead, ResNet
from torch import nn

from mmkdml.models import SimKDNeck, SimKDProjector
from mmkdml.models.tasks import ClassificationTask
from mmkdml.registry import MODELS


@pytest.fixture
def neck():
    torch.manual_seed(0)
    return SimKDNeck(in_channels=6, out_channels=4)


def test_neck_is_projector_and_mean(neck):
    assert isinstance(neck.projector, SimKDProjector)
    maps = torch.randn(3, 6, 5, 7)
    neck.eval()
    (vectors,) = neck((maps,))
    assert vectors.shape == (3, 4)
    torch.testing.assert_close(vectors, neck.projector(maps).mean(dim=(2, 3)))


def test_last_of_several_maps_is_used(neck):
    maps = (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4))
    copies = [one.clone() for one in maps]
    neck.eval()
    assert torch.equal(neck(maps)[0], neck(maps[-1:])[0])
    assert all(torch.equal(one, other) for one, other in zip(maps, copies, strict=True))


@pytest.mark.parametrize(('factor', 'width'), [(1, 8), (2, 4), (4, 2)])
def test_options_reach_the_projector(factor, width):
    neck = MODELS.build(
        dict(type='SimKDNeck', in_channels=6, out_channels=8, factor=factor, out_size=(2, 2))
    )
    kernels = [m.weight.shape for m in neck.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(width, 6, 1, 1), (width, width, 3, 3), (8, width, 1, 1)]
    assert neck.projector(torch.randn(2, 6, 8, 8)).shape == (2, 8, 2, 2)
    with pytest.raises(ValueError, match=r'factor must be in \[1, out_channels = 4\], got 5'):
        SimKDNeck(in_channels=6, out_channels=4, factor=5)


def test_training_on_one_value_raises(neck):
    with pytest.raises(ValueError, match='batch norm.*one value per channel.*at least 2'):
        neck((torch.randn(1, 6, 1, 1),))
    neck((torch.randn(2, 6, 1, 1),))


def test_default_tap_in_a_classifier():
    torch.manual_seed(0)
    member = ImageClassifier(
        backbone=dict(type=ResNet, depth=18, base_channels=4, stem_channels=4),
        neck=dict(type=SimKDNeck, in_channels=32, out_channels=12),
        head=dict(type=LinearClsHead, num_classes=3, in_channels=12),
    )
    assert ClassificationTask().default_tap(member) == 'neck.projector'
    assert dict(member.named_modules())['neck.projector'] is member.neck.projector
    images = torch.randn(2, 3, 64, 64)
    loss = member(images).sum()
    loss.backward()
    assert all(p.grad is not None for p in member.parameters())
