import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from mmkdml.models.taps import TapRecorder


class Pyramid(nn.Module):
    """Backbone with two outputs in a container."""

    def __init__(self, container=tuple):
        super().__init__()
        self.stage1 = nn.Conv2d(3, 4, 3)
        self.stage2 = nn.Conv2d(4, 5, 3)
        self.container = container

    def forward(self, x):
        low = self.stage1(x)
        return self.container((low, self.stage2(low)))


class Net(nn.Module):
    def __init__(self, container=tuple):
        super().__init__()
        self.backbone = Pyramid(container)
        self.unused = nn.Linear(1, 1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        maps = list(self.backbone(x))
        return self.fc(self.act(maps[-1]).mean((2, 3)))


def images(seed=0):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def hooks_of(module):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in module.modules()
    )


def test_tap_is_the_output_of_the_module():
    net, x = Net(), images()
    with TapRecorder(net, ['backbone.stage1', 'act', 'fc']) as taps:
        output = net(x)
    low = net.backbone.stage1(x)
    assert torch.equal(taps['backbone.stage1'], low)
    assert torch.equal(taps['act'], net.backbone.stage2(low).relu())
    assert taps['fc'] is output


def test_recording_does_not_change_the_output():
    net, x = Net(), images()
    plain = net(x)
    with TapRecorder(net, ['backbone', 'act']):
        assert torch.equal(net(x), plain)


@pytest.mark.parametrize('container', [tuple, list])
def test_last_of_several_outputs_is_recorded(container):
    net, x = Net(container), images()
    with TapRecorder(net, ['backbone']) as taps:
        net(x)
    assert torch.equal(taps['backbone'], net.backbone(x)[-1])


def test_gradients_flow_through_a_tap():
    net, x = Net(), images()
    with TapRecorder(net, ['backbone.stage1']) as taps:
        net(x)
    taps['backbone.stage1'].square().sum().backward()
    by_tap = net.backbone.stage1.weight.grad.clone()
    net.zero_grad()
    net.backbone.stage1(x).square().sum().backward()
    torch.testing.assert_close(by_tap, net.backbone.stage1.weight.grad)
    assert net.fc.weight.grad is None


def test_hooks_exist_only_inside_the_context():
    net = Net()
    recorder = TapRecorder(net, ['backbone', 'fc'])
    assert hooks_of(net) == 0
    with recorder:
        assert hooks_of(net) == 2
        net(images())
    assert hooks_of(net) == 0


def test_hooks_are_removed_after_an_exception():
    net = Net()
    with pytest.raises(RuntimeError), TapRecorder(net, ['backbone', 'fc']):  # noqa: PT012
        assert hooks_of(net) == 2
        net(torch.zeros(2, 7, 8, 8))
    assert hooks_of(net) == 0


def test_later_forward_passes_are_not_recorded():
    net = Net()
    with TapRecorder(net, ['fc']) as taps:
        output = net(images())
    net(images(1))
    assert taps['fc'] is output


def test_recorder_can_be_entered_again():
    net = Net()
    recorder = TapRecorder(net, ['fc', 'act'])
    for seed in (0, 1):
        with recorder as taps:
            output = net(images(seed))
        assert taps['fc'] is output
        assert taps.order == ['act', 'fc']


@pytest.mark.parametrize(
    ('name', 'near'),
    [
        ('backbone.stage3', 'backbone.stage[12], backbone.stage[12]'),
        ('backbon', 'backbone'),
        ('backbone.container', 'backbone'),  # an attribute, not a module
        ('fc.weight', ''),  # a parameter
        ('xyzxyz', 'backbone, backbone.stage1, backbone.stage2, unused, act'),
        ('', 'backbone, backbone.stage1'),
    ],
)
def test_unknown_name_lists_similar_names(name, near):
    with pytest.raises(ValueError, match=f"Invalid tap '{name}': Net .* but {near}.*list_taps"):
        TapRecorder(Net(), ['fc', name])


@pytest.mark.parametrize(
    ('net', 'name', 'runs'), [(Net(), 'unused', 0), (nn.Sequential(*[nn.ReLU()] * 2), '0', 2)]
)
def test_modules_that_do_not_run_once_raise(net, name, runs):
    with TapRecorder(net, [name]) as taps:
        net(images())
    with pytest.raises(ValueError, match=f"'{name}': .* runs once .* ran {runs} times"):
        taps[name]


@pytest.mark.parametrize(
    'container',
    [
        lambda maps: (maps[1], maps[1].shape[2:]),  # tokens and their grid (Swin)
        lambda maps: (maps[1], (2, 2)),
        lambda maps: (maps[0], [maps[1], maps[1].mean((2, 3))]),  # a map and its class token (ViT)
    ],
)
def test_other_outputs_than_the_last_map_are_ignored(container):
    pyramid = Pyramid(container)
    with TapRecorder(nn.Sequential(pyramid), ['0', '0.stage2']) as taps:
        pyramid(images())
    assert taps['0'] is taps['0.stage2']


@pytest.mark.parametrize(
    ('container', 'kind'),
    [
        (lambda maps: dict(enumerate(maps)), 'dict'),
        (lambda maps: (maps[0], dict(last=maps[1])), 'dict'),
        (lambda maps: (), 'tuple'),
        (lambda maps: None, 'NoneType'),
    ],
)
def test_output_that_is_not_a_tensor_raises(container, kind):
    pyramid = Pyramid(container)
    with TapRecorder(nn.Sequential(pyramid), ['0']) as taps:
        pyramid(images())
    with pytest.raises(
        ValueError, match=f"'0': expected a tensor or a tuple of tensors, got {kind}"
    ):
        taps['0']


class AddsInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.conv(x)
        x += 1
        return x


@pytest.mark.parametrize(
    ('net', 'changed', 'valid'),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Flatten()), '0', '1'),
        (nn.Sequential(AddsInPlace()), '0.conv', '0'),
        # ReLU modifies a view of the output.
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.ReLU(inplace=True)), '0', '2'),
    ],
)
def test_output_modified_in_place_raises(net, changed, valid):
    with TapRecorder(net, [changed, valid]) as taps:
        output = net(images())
    with pytest.raises(ValueError, match=f"'{changed}': .*modified in place .*Tap the next module"):
        taps[changed]
    torch.testing.assert_close(taps[valid].flatten(), output.flatten())


def test_output_modified_after_the_forward_pass_raises():
    net = Net()
    with TapRecorder(net, ['act']) as taps, torch.no_grad():
        net(images())
    assert taps['act'].shape == (2, 5, 4, 4)
    taps['act'].zero_()
    with pytest.raises(ValueError, match='modified in place'):
        taps['act']


def test_inference_mode():
    net, x = Net(), images()
    with torch.inference_mode(), TapRecorder(net, ['backbone', 'act']) as taps:
        net(x)
    assert taps['act'].is_inference()
    assert torch.equal(taps['act'], net.backbone(x)[-1].relu())


def test_network_can_be_copied_and_saved_afterwards():
    net, x = Net(), images()
    keys = list(net.state_dict())
    with TapRecorder(net, ['backbone', 'act']):
        net(x)
    assert list(net.state_dict()) == keys
    twin = copy.deepcopy(net)
    assert hooks_of(twin) == 0
    assert torch.equal(twin(x), net(x))


def test_outputs_are_freed_with_the_recorder():
    net = Net()
    gc.disable()  # reference counting must be sufficient
    try:
        with TapRecorder(net, ['act', 'backbone']) as taps:
            net(images())
        watched = weakref.ref(taps['act']), weakref.ref(taps['backbone'])
        assert all(ref() is not None for ref in watched)
        del taps
        assert all(ref() is None for ref in watched)
    finally:
        gc.enable()
