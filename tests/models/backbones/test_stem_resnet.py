import pytest
import torch
import torchvision
from mmpretrain.models.backbones import ResNet

from mmkdml.models import StemResNet

TINY = dict(base_channels=8, stem_channels=8)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def stem_resnet(depth, **kwargs):
    network = StemResNet(depth, **kwargs)
    network.eval()  # returns None in mmpretrain
    return network


def pair(depth, **kwargs):
    """StemResNet and mmpretrain's ResNet with equal weights, in eval mode."""
    ours = stem_resnet(depth, **kwargs)
    theirs = ResNet(depth, out_indices=(0, 1, 2, 3), **kwargs)
    theirs.eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('deep_stem', [False, True])
def test_state_dicts_load_both_ways(depth, deep_stem):
    ours, theirs = pair(depth, deep_stem=deep_stem, **TINY)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert shapes == {key: value.shape for key, value in ours.state_dict().items()}
    ours.load_state_dict(theirs.state_dict(), strict=True)


@pytest.mark.parametrize('deep_stem', [False, True])
def test_stem_precedes_the_maps_of_resnet(deep_stem):
    ours, theirs = pair(18, deep_stem=deep_stem, **TINY)
    images = torch.randn(2, 3, 64, 96)
    stem, *maps = ours(images)
    assert [64 // m.shape[2] for m in (stem, *maps)] == [2, 4, 8, 16, 32]
    assert [96 // m.shape[3] for m in (stem, *maps)] == [2, 4, 8, 16, 32]
    for ours_map, theirs_map in zip(maps, theirs(images), strict=True):
        assert torch.equal(ours_map, theirs_map)
    first = theirs.stem(images) if deep_stem else torch.relu(theirs.norm1(theirs.conv1(images)))
    assert torch.equal(stem, first)


def test_gradient_flows_through_the_stem_map():
    network = stem_resnet(18, **TINY)
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    network(images)[0].sum().backward()
    assert images.grad.abs().sum() > 0
    assert network.layer1[0].conv1.weight.grad is None


def test_out_indices_select_stages_only():
    images = torch.randn(1, 3, 64, 64)
    maps = stem_resnet(18, out_indices=(1, 3), **TINY)(images)
    assert [tuple(m.shape) for m in maps] == [(1, 8, 32, 32), (1, 16, 8, 8), (1, 64, 2, 2)]


def torchvision_maps(network, images):
    stem = network.relu(network.bn1(network.conv1(images)))
    maps = [stem]
    x = network.maxpool(stem)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        maps.append(x)
    return maps


@pytest.mark.parametrize('depth', [18, 50])
def test_maps_equal_torchvisions_with_its_weights(depth):
    theirs = getattr(torchvision.models, f'resnet{depth}')(weights=None).eval()
    ours = stem_resnet(depth)
    weights = {
        key: value for key, value in theirs.state_dict().items() if not key.startswith('fc.')
    }
    ours.load_state_dict(weights, strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = torchvision_maps(theirs, images)
        for ours_map, theirs_map in zip(ours(images), expected, strict=True):
            torch.testing.assert_close(ours_map, theirs_map)


def test_init_cfg_loads_a_torchvision_file(tmp_path):
    theirs = torchvision.models.resnet18(weights=None).eval()
    file = tmp_path / 'resnet18.pth'
    torch.save(theirs.state_dict(), file)
    ours = StemResNet(18, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    assert not torch.equal(ours.conv1.weight, theirs.conv1.weight)
    ours.init_weights()
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
