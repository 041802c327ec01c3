import copy
import pickle
import weakref

import pytest
import torch
from mmcv.cnn import ConvModule
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from mmkdml.models import inference_copies
from mmkdml.models.inference_copies import InferenceCopies
from mmkdml.models.taps import TapRecorder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settled(network):
    """Give a network in eval mode batch normalizations that change their input."""
    for norm in network.modules():
        for name, tensor in norm.state_dict(keep_vars=True).items():
            if 'running' in name or ('weight' in name and tensor.ndim == 1):
                nn.init.uniform_(tensor, 0.5, 2)
    return network.eval()


def run(network, images):
    return network(images)


def copy_of(network, images, copies=None, run=run):
    with torch.no_grad():
        return (copies or InferenceCopies()).of(network, run, images)


def norms(network):
    kinds = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
    return [name for name, one in network.named_modules() if isinstance(one, kinds)]


def conv_norm(**settings):
    return settled(nn.Sequential(nn.Conv2d(4, 6, 3, **settings), nn.BatchNorm2d(6), nn.ReLU()))


FUSED = {
    'bias': conv_norm,
    'no bias': lambda: conv_norm(bias=False),
    'groups': lambda: conv_norm(groups=2, padding=1, stride=2),
    'padding mode': lambda: conv_norm(padding=1, padding_mode='reflect'),
    'transposed': lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 2, 2), nn.BatchNorm2d(6)),
    'no affine': lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
    'synchronized': lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.SyncBatchNorm(6)),
    'timm': lambda: nn.Sequential(nn.Conv2d(4, 6, 3), BatchNormAct2d(6)),
    'mmcv': lambda: ConvModule(4, 6, 3, norm_cfg=dict(type='BN')),
    '1d': lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)),
    '3d': lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 6, (2, 3, 3)), nn.BatchNorm3d(6)
    ),
}


@pytest.mark.parametrize('make', FUSED.values(), ids=FUSED)
def test_copy_has_no_norm_and_computes_the_same(make):
    network, images = settled(make()).double(), torch.randn(3, 4, 8, 8).double()
    before = copy.deepcopy(network.state_dict())
    copied = copy_of(network, images)
    assert norms(network)
    assert not norms(copied)
    with torch.no_grad():
        torch.testing.assert_close(copied(images), network(images), rtol=1e-12, atol=1e-12)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


class Parts(nn.Module):
    """Network whose convolution and normalization are used in other ways than one after another."""

    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.kept = []
        self._forward = forward

    def forward(self, images):
        return self._forward(self, images)


def tied(parts):
    parts.other.weight = parts.conv.weight
    return parts


NOT_FUSED = {
    'residual': Parts(lambda m, x: (y := m.conv(x)) + m.norm(y)),
    'read later': Parts(lambda m, x: m.norm(y := m.conv(x)) + m.other(y)),
    'read before': Parts(lambda m, x: m.norm((y := m.conv(x)) + 0 * y.mean())),
    'view': Parts(lambda m, x: (y := m.conv(x)).flatten(1).sum() + m.norm(y)),
    'returned': Parts(lambda m, x: [y := m.conv(x), m.norm(y)]),
    'activation between': Parts(lambda m, x: m.norm(m.conv(x).relu())),
    'changed in place': Parts(lambda m, x: m.norm(m.conv(x).mul_(2))),
    'convolution used twice': Parts(lambda m, x: m.norm(m.conv(m.conv(x)))),
    'normalization used twice': Parts(lambda m, x: m.norm(m.other(m.norm(m.conv(x))))),
    'normalization before': Parts(lambda m, x: m.conv(m.norm(x))),
    'weight read elsewhere': Parts(lambda m, x: m.norm(m.conv(x)) + m.conv.weight.mean()),
    'tied weights': tied(Parts(lambda m, x: m.norm(m.conv(x)))),
    'mmcv order': ConvModule(4, 4, 3, norm_cfg=dict(type='BN'), order=('norm', 'conv', 'act')),
    'instance norm': nn.Sequential(nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4, affine=True)),
    'group norm': nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4)),
    'batch statistics': nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    ),
    'parametrized': nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)
    ),
    'groups of transposed': nn.Sequential(
        nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.BatchNorm2d(4)
    ),
    'compiled': nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    'hook': nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    'linear': nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
}
NOT_FUSED['compiled'].compile()
NOT_FUSED['hook'][0].register_forward_hook(lambda *call: None)


@pytest.mark.parametrize('network', NOT_FUSED.values(), ids=NOT_FUSED)
def test_network_that_cannot_be_fused_is_used_as_it_is(network):
    assert copy_of(settled(network), torch.randn(2, 4, 8, 8)) is network


def test_old_weight_norm_is_used_as_it_is():
    network = nn.Sequential(weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)).eval()
    assert copy_of(network, torch.randn(2, 4, 8, 8)) is network


@pytest.mark.parametrize('part', [0, 1, 2])
def test_network_in_training_or_with_gradients_is_used_as_it_is(part):
    network, images = conv_norm(), torch.randn(2, 4, 8, 8)
    assert InferenceCopies().of(network, run, images) is network
    assert copy_of(network, images, InferenceCopies(enabled=False)) is network
    network[part].train()
    assert copy_of(network, images) is network


def test_only_what_is_not_read_is_fused():
    first, second = conv_norm(), settled(nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)))
    network, images = nn.Sequential(first, second).eval(), torch.randn(2, 4, 8, 8)

    def recorded(network, images, names=('0.0', '1.1')):
        with TapRecorder(network, names) as taps:
            return [network(images), *(taps[name] for name in names)]

    copied = copy_of(network, images, run=recorded)
    assert norms(copied) == ['0.1']  # its input is recorded
    with torch.no_grad():
        for own, other in zip(recorded(copied, images), recorded(network, images), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_copy_follows_changed_weights():
    network, images, copies = conv_norm(), torch.randn(2, 4, 8, 8), InferenceCopies()
    first = copy_of(network, images, copies)
    assert copy_of(network, images, copies) is first
    changes = [
        lambda: (network[0].weight.data.mul_(2), copies.drop()),  # hidden, as in EMAHook
        lambda: network.load_state_dict(conv_norm().state_dict()),
        lambda: network[1].running_mean.add_(1),
        lambda: setattr(network[1], 'bias', nn.Parameter(torch.ones(6))),
        lambda: network.to(torch.float64).to(torch.float32),
        lambda: network.__setitem__(0, nn.Conv2d(4, 6, 3).eval()),
    ]
    for change in changes:
        with torch.no_grad():
            change()
            copied = copy_of(network, images, copies)
            assert copied is not network
            torch.testing.assert_close(copied(images), network(images), rtol=1e-5, atol=1e-5)


def test_no_other_values_get_the_address_of_earlier_ones():
    network, images, copies = conv_norm(), torch.randn(2, 4, 8, 8), InferenceCopies()
    copy_of(network, images, copies)
    first = weakref.ref(network[0].weight.untyped_storage())
    network[0].weight.data = network[0].weight.data * 2
    assert first() is not None
    copy_of(network, images, copies)
    assert first() is None


def test_copies_are_shared_dropped_and_never_saved():
    network, images, copies = conv_norm(), torch.randn(2, 4, 8, 8), InferenceCopies()
    copied = copy_of(network, images, copies)
    other = copy_of(nn.Sequential(network, nn.Conv2d(6, 2, 1)).eval(), images)
    assert copied.state_dict().keys() == {'0.weight', '0.bias'}
    assert other[1].bias is not None
    for another in (copy.deepcopy(copies), pickle.loads(pickle.dumps(copies))):
        assert not another._entries
        assert another.enabled
    assert copied[0].weight.is_contiguous(memory_format=torch.channels_last)
    copies.drop()
    assert all(entry.copy is None for entry in copies._entries.values())


def test_random_state_stays():
    network = settled(Parts(lambda m, x: m.norm(m.conv(x + torch.rand(())))))
    images = torch.randn(2, 4, 8, 8)
    state = torch.get_rng_state()
    assert copy_of(network, images) is not network
    assert torch.equal(torch.get_rng_state(), state)


def test_inference_mode_and_mixed_precision():
    network, images, copies = conv_norm(), torch.randn(2, 4, 8, 8), InferenceCopies()
    with torch.inference_mode():
        plain, batch = copies.of(network, run, images), images * 1
        expected = network(batch)
        assert not norms(copies.of(network, run, batch))
        assert not norms(plain)
        with torch.autocast('cpu', torch.bfloat16):
            mixed = copies.of(network, run, batch)
            assert mixed is not plain
            assert mixed[0].weight.dtype == torch.bfloat16
            assert mixed(batch).dtype == torch.bfloat16
            torch.testing.assert_close(mixed(batch).float(), expected, rtol=0.05, atol=0.05)
        assert copies.of(network, run, batch) is plain


class FullPrecision(nn.Sequential):
    """Part of a network that leaves mixed precision."""

    def forward(self, images):
        with torch.autocast('cpu', enabled=False):
            return super().forward(images.float())


def test_part_that_leaves_mixed_precision_keeps_its_weights():
    head = settled(FullPrecision(nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2)))
    network, images = nn.Sequential(conv_norm(), head).eval(), torch.randn(2, 4, 8, 8)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        copied = InferenceCopies().of(network, run, images)
        assert not norms(copied)
        torch.testing.assert_close(copied(images), network(images), rtol=0.05, atol=0.05)


def test_replaced_forward_is_kept_because_it_may_call_the_original():
    # A fresh normalization changes nothing, so that outputs are equal without it.
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).eval()
    images = torch.randn(2, 4, 8, 8)
    network[0].forward = lambda x, conv=network[0]: type(conv).forward(conv, x)
    assert copy_of(network, images) is network


class Broken(nn.Sequential):
    def __deepcopy__(self, memo):
        raise RuntimeError('no copy')


class Depending(nn.Sequential):
    """Network whose outputs depend on the kinds of its modules."""

    def forward(self, images):
        return super().forward(images) * (1 + any(type(x) is nn.Identity for x in self))


def failing(network, images):
    raise RuntimeError('no run')


@pytest.mark.parametrize(
    ('kind', 'run'), [(Broken, run), (Depending, run), (nn.Sequential, failing)]
)
def test_failures_are_warned_of_and_the_network_is_used(kind, run, monkeypatch):
    logged = []
    monkeypatch.setattr(inference_copies, 'print_log', lambda text, **_: logged.append(text))
    network, images, copies = kind(*conv_norm()).eval(), torch.randn(2, 4, 8, 8), InferenceCopies()
    for _ in range(2):
        assert copy_of(network, images, copies, run) is network
    assert len(logged) == 1
    assert kind.__name__ in logged[0]


class Flattened(nn.Sequential):
    """Network that needs maps in the default memory format."""

    def forward(self, images):
        return super().forward(images).view(len(images), -1)


def test_memory_format_that_a_network_does_not_support():
    network, images = Flattened(*conv_norm()).eval(), torch.randn(2, 4, 8, 8)
    copied = copy_of(network, images)
    assert not norms(copied)
    assert copied[0].weight.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(copied(images), network(images), rtol=1e-5, atol=1e-5)
