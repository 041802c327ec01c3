import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkdml.models.losses import FeatureMSELoss
from mmkdml.models.projectors import (
    ConvProjector,
    IdentityProjector,
    InterpolateProjector,
    LinearProjector,
    Projector,
)
from mmkdml.registry import MODELS

ARGUMENTS = {
    'IdentityProjector': {},
    'ConvProjector': dict(in_channels=3, out_channels=5),
    'LinearProjector': dict(in_channels=3, out_channels=5),
    'InterpolateProjector': dict(scale_factor=2),
}


def maps(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ('name', 'shape', 'out'),
    [
        ('IdentityProjector', (2, 3, 4, 6), (2, 3, 4, 6)),
        ('IdentityProjector', (2, 3), (2, 3)),
        ('ConvProjector', (2, 3, 4, 6), (2, 5, 4, 6)),
        ('LinearProjector', (2, 3), (2, 5)),
        ('LinearProjector', (2, 3, 7), (2, 5, 7)),
        ('LinearProjector', (2, 3, 4, 6), (2, 5, 4, 6)),
        ('InterpolateProjector', (2, 3, 4, 6), (2, 3, 8, 12)),
    ],
)
def test_shapes_and_gradients(name, shape, out):
    projector = MODELS.build(dict(type=name, **ARGUMENTS[name]))
    x = maps(*shape).requires_grad_()
    y = projector(x)
    assert y.shape == out
    (y * torch.arange(y.numel()).view_as(y)).sum().backward()
    assert (x.grad != 0).any()
    assert all((parameter.grad != 0).any() for parameter in projector.parameters())


@pytest.mark.parametrize('name', ARGUMENTS)
def test_side(name):
    kind, arguments = MODELS.get(name), ARGUMENTS[name]
    assert issubclass(kind, Projector)
    assert kind(**arguments).side == 'learner'
    for side in ('learner', 'source'):
        assert kind(**arguments, side=side).side == side
    for wrong in ('teacher', '', None):
        with pytest.raises(
            ValueError, match=f'side: expected one of learner, source, got {wrong!r}'
        ):
            kind(**arguments, side=wrong)


def test_identity_returns_its_input():
    x = maps(2, 3, 4, 4)
    assert IdentityProjector()(x) is x
    assert not list(IdentityProjector().parameters())


@pytest.mark.parametrize('training', [True, False])
def test_conv_projector_is_convolution_batch_norm_relu(training):
    projector = ConvProjector(3, 5)
    x = maps(4, 3, 2, 6)
    state = {}
    for index, (key, value) in enumerate(projector.state_dict().items()):
        # Weights and running statistics that differ from the initial ones.
        state[key] = (
            value
            if value.dtype == torch.long
            else (torch.rand(value.shape, generator=torch.Generator().manual_seed(index)) + 0.1)
        )
    projector.load_state_dict(state)
    projector.train(training)
    (weight,) = (p for p in projector.parameters() if p.ndim == 4)
    assert weight.shape == (5, 3, 1, 1)
    norm = copy.deepcopy(next(m for m in projector.modules() if isinstance(m, nn.BatchNorm2d)))
    with torch.no_grad():
        y = torch.einsum('oc,nchw->nohw', weight[:, :, 0, 0], x)  # no bias before batch norm
        if training:
            mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = norm.running_mean, norm.running_var
        y = (y - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + norm.eps).sqrt()
        y = (y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).clamp_min(0)
        torch.testing.assert_close(projector(x), y)
    assert (y == 0).any()
    assert (y > 0).any()


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(4, 3), (2, 3, 4, 6)])
def test_linear_projector_is_a_matrix_product(shape, bias):
    projector, x = LinearProjector(3, 5, bias=bias), maps(*shape)
    weight = projector.linear.weight
    y = torch.einsum('oc,nc...->no...', weight, x)
    if bias:
        y = y + projector.linear.bias.view(5, *[1] * (len(shape) - 2))
        torch.testing.assert_close(projector(x), y)
    else:
        assert projector.linear.bias is None
        torch.testing.assert_close(projector(x), y)


def test_linear_projector_of_vectors_is_nn_linear():
    projector, x = LinearProjector(3, 5), maps(4, 3)
    assert torch.equal(projector(x), projector.linear(x))


@pytest.mark.parametrize(
    ('factor', 'out'), [(2, (8, 12)), (0.5, (2, 3)), (1.5, (6, 9)), (1, (4, 6))]
)
def test_interpolation_is_bilinear(factor, out):
    x = maps(2, 3, 4, 6)
    y = InterpolateProjector(factor)(x)
    torch.testing.assert_close(y, F.interpolate(x, size=out, mode='bilinear', align_corners=False))


def test_interpolation_by_hand():
    x = torch.tensor([[[[0.0, 4.0]]]])
    assert InterpolateProjector(2)(x).tolist() == [[[[0, 1, 3, 4]] * 2]]


@pytest.mark.parametrize('factor', [0, -2, math.nan])
def test_scale_factor_that_is_not_positive_raises(factor):
    with pytest.raises(ValueError, match=f'scale_factor must be positive, got {factor}'):
        InterpolateProjector(factor)


def test_linear_projector_without_bias_is_the_1x1_convolution_of_fitnet():
    def wave(shape, a, b, scale, shift=0.0):
        index = torch.arange(math.prod(shape), dtype=torch.float64)
        return ((a * index + b).sin() * scale + shift).view(shape)

    projector = LinearProjector(6, 9, bias=False).double()
    projector.linear.weight.data = wave((9, 6), 0.7, 0.3, 0.1)
    learner = wave((2, 6, 6, 8), 0.05, 0.2, 1, 0.3).requires_grad_()
    source = wave((2, 9, 6, 8), 0.07, 0.9, 1, 0.3)
    value = FeatureMSELoss()(projector(learner), source)
    value.backward()
    assert value.item() == pytest.approx(0.6015373802434117, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.003790237106174987, rel=1e-9)
    assert (projector.linear.weight.grad != 0).any()
