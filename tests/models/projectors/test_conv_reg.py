import math

import pytest
import torch
from torch import nn

from mmkdml.functional import feature_mse
from mmkdml.models.projectors import ConvReg, Projector
from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT10 = gen((4, 10, 4, 4), 0.023, 0.5, 1, 0.3)
FT10S = gen((4, 10, 8, 8), 0.023, 0.5, 1, 0.3)


def filled(connector):
    connector.double()
    with torch.no_grad():
        for number, parameter in enumerate(connector.conv.parameters()):
            parameter.copy_(gen(parameter.shape, 0.7, 0.3 + number, 0.1))
    return connector


def slow_norm_relu(maps):
    mean = maps.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return ((maps - mean) / (variance + 1e-5).sqrt()).clamp_min(0)


def slow_convolution(maps, weight, bias, stride, padding):
    """Loop over positions."""
    kernel = weight.shape[2:]
    height, width = maps.shape[2:]
    padded = torch.zeros(*maps.shape[:2], height + 2 * padding, width + 2 * padding).double()
    padded[..., padding : padding + height, padding : padding + width] = maps
    rows = range(0, padded.shape[2] - kernel[0] + 1, stride)
    columns = range(0, padded.shape[3] - kernel[1] + 1, stride)
    out = torch.zeros(len(maps), len(weight), len(rows), len(columns)).double()
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            window = padded[..., y : y + kernel[0], x : x + kernel[1]]
            out[..., i, j] = (window[:, None] * weight).sum(dim=(2, 3, 4)) + bias
    return out


def slow_transposed(maps, weight, bias):
    """Add a 4x4 patch per pixel with stride 2, and crop one row and column on each side."""
    height, width = maps.shape[2:]
    out = torch.zeros(len(maps), weight.shape[1], 2 * height + 2, 2 * width + 2).double()
    for y in range(height):
        for x in range(width):
            patch = (maps[:, :, None, y, x, None, None] * weight).sum(dim=1)
            out[..., 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += patch
    return out[..., 1:-1, 1:-1] + bias[:, None, None]


def test_equals_the_reference_implementation():
    connector = filled(ConvReg(6, 10, (8, 8), (8, 8)))
    learner = FS.clone().requires_grad_()
    value = feature_mse(connector(learner), FT10S)
    value.backward()
    assert value.item() == pytest.approx(0.8312341885670211, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.013400744434904644, rel=1e-9)


@pytest.mark.parametrize('reference', ['simkd', 'repdistiller'])
@pytest.mark.parametrize(
    ('in_size', 'out_size', 'stride', 'padding', 'kernel'),
    [
        ((8, 8), (8, 8), 1, 0, (1, 1)),
        ((8, 6), (4, 3), 2, 1, (3, 3)),
        ((8, 8), (5, 5), 1, 0, (4, 4)),
        ((8, 7), (3, 7), 1, 0, (6, 1)),
        ((8, 4), (4, 4), 1, 0, (5, 1)),
    ],
)
def test_kernels_by_size(in_size, out_size, stride, padding, kernel, reference):
    connector = filled(ConvReg(6, 10, in_size, out_size, reference=reference))
    weight, bias = connector.conv.parameters()
    assert weight.shape[2:] == kernel
    x = FS[..., : in_size[0], : in_size[1]]
    expected = slow_norm_relu(slow_convolution(x, weight.detach(), bias.detach(), stride, padding))
    assert expected.shape == (4, 10, *out_size)
    torch.testing.assert_close(connector(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('reference', ['simkd', 'repdistiller'])
def test_map_of_half_the_size_is_doubled(reference):
    connector = filled(ConvReg(6, 10, (4, 3), (8, 6), reference=reference))
    weight, bias = (parameter.detach() for parameter in connector.conv.parameters())
    x = FS[..., :4, :3]
    expected = slow_norm_relu(slow_transposed(x, weight, bias))
    assert expected.shape == (4, 10, 8, 6)
    torch.testing.assert_close(connector(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('out_size', [(8, 8), (5, 5), (3, 8)])
def test_smaller_maps_keep_their_size(out_size):
    connector = filled(ConvReg(6, 10, (3, 3), out_size))
    weight, bias = (parameter.detach() for parameter in connector.conv.parameters())
    x = FS[..., :3, :3]
    expected = slow_norm_relu(slow_convolution(x, weight, bias, 1, 1))
    assert expected.shape == (4, 10, 3, 3)
    torch.testing.assert_close(connector(x), expected, rtol=1e-9, atol=1e-9)


def test_all_parameters_get_gradients_and_the_class_is_registered():
    connector = MODELS.build(
        dict(type='ConvReg', in_channels=6, out_channels=10, in_size=(8, 8), out_size=(4, 4))
    )
    assert isinstance(connector, Projector)
    assert connector.side == 'learner'
    assert ConvReg(6, 10, (8, 8), (4, 4), side='source').side == 'source'
    feature_mse(connector(FS.float()), FT10.float()).backward()
    # The gradient of a bias before batch norm is 0 up to rounding.
    names = [name for name, _ in connector.named_parameters()]
    assert names == ['conv.weight', 'conv.bias', 'norm.weight', 'norm.bias']
    assert all(parameter.grad is not None for parameter in connector.parameters())


def test_eval_mode_uses_running_statistics():
    connector = filled(ConvReg(6, 10, (8, 8), (8, 8))).eval()
    expected = connector.conv(FS).clamp_min(0) / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(connector(FS), expected)


def test_input_is_not_modified():
    x = FS.clone()
    ConvReg(6, 10, (8, 8), (4, 4)).double()(x)
    assert torch.equal(x, FS)


@pytest.mark.parametrize(
    ('in_size', 'out_size', 'reference', 'message'),
    [
        ((3, 3), (8, 8), 'repdistiller', r"\(3, 3\) and \(8, 8\).* or reference='simkd'"),
        ((4, 8), (8, 4), 'simkd', r'shrink, stay or double.*\(4, 8\) and \(8, 4\)'),
        ((4, 4), (4, 4), 'cirkd', "reference: .*simkd, repdistiller, got 'cirkd'"),
    ],
)
def test_invalid_sizes_raise(in_size, out_size, reference, message):
    with pytest.raises(ValueError, match=message):
        ConvReg(6, 10, in_size, out_size, reference=reference)


def test_training_on_one_pixel_raises():
    connector = ConvReg(6, 10, (4, 4), (1, 1))
    assert isinstance(connector.conv, nn.Conv2d)
    with pytest.raises(ValueError, match=r'batch norm.*\(1, 10, 1, 1\).*batch_size'):
        connector(FS[:1, :, :4, :4].float())
