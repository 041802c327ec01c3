import math

import pytest
import torch

from mmkdml.models.losses import SimKDLoss
from mmkdml.models.projectors import Projector, SimKDProjector
from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT10 = gen((4, 10, 4, 4), 0.023, 0.5, 1, 0.3)


def build(**options):
    projector = MODELS.build(
        dict(type='SimKDProjector', in_channels=6, out_channels=10, **options)
    ).double()
    with torch.no_grad():
        for number, parameter in enumerate(projector.parameters()):
            if parameter.ndim == 4:
                parameter.copy_(gen(parameter.shape, 0.7, 0.3 + number, 0.1))
    return projector


def slow_layer(maps, weight):
    """Convolution as a sum of shifted maps, batch norm and ReLU."""
    size, (height, width) = weight.shape[2], maps.shape[2:]
    margin = size // 2
    padded = torch.zeros(*maps.shape[:2], height + 2 * margin, width + 2 * margin).double()
    padded[..., margin : margin + height, margin : margin + width] = maps
    maps = sum(
        torch.einsum(
            'oi,nihw->nohw', weight[:, :, y, x], padded[..., y : y + height, x : x + width]
        )
        for y in range(size)
        for x in range(size)
    )
    mean = maps.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return ((maps - mean) / (variance + 1e-5).sqrt()).clamp_min(0)


def slow(maps, projector):
    for parameter in projector.parameters():
        if parameter.ndim == 4:
            maps = slow_layer(maps, parameter.detach())
    return maps


@pytest.mark.parametrize(('factor', 'width'), [(1, 10), (2, 5), (4, 2), (10, 1)])
def test_three_layers_by_hand(factor, width):
    projector = build(factor=factor)
    shapes = [tuple(p.shape) for p in projector.parameters() if p.ndim == 4]
    assert shapes == [(width, 6, 1, 1), (width, width, 3, 3), (10, width, 1, 1)]
    torch.testing.assert_close(projector(FS), slow(FS, projector), rtol=1e-9, atol=1e-9)


def test_loss_with_a_larger_learner():
    projector = build(out_size=(4, 4))
    learner = FS.clone().requires_grad_()
    value = SimKDLoss()(projector(learner), FT10)
    pooled = FS.view(4, 6, 4, 2, 4, 2).mean(dim=(3, 5))
    expected = ((slow(pooled, projector) - FT10) ** 2).mean()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    value.backward()
    assert (learner.grad != 0).any()
    assert all((parameter.grad != 0).any() for parameter in projector.parameters())


def test_loss_with_a_larger_source():
    learner, source = FS[..., :2, :2], FT10
    projector = build(out_size=(4, 4))
    value = SimKDLoss()(projector(learner), source)
    pooled = source.view(4, 10, 2, 2, 2, 2).mean(dim=(3, 5))
    expected = ((slow(learner, projector) - pooled) ** 2).mean()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ('out_size', 'expected'),
    [(None, (8, 8)), ((4, 4), (4, 4)), ((8, 8), (8, 8)), ((16, 16), (8, 8)), ((4, 9), (4, 8))],
)
def test_output_size(out_size, expected):
    assert build(out_size=out_size)(FS).shape == (4, 10, *expected)


def test_side():
    assert issubclass(SimKDProjector, Projector)
    assert build().side == 'learner'
    assert build(side='source').side == 'source'


def test_gradient_of_the_learner():
    projector = build(out_size=(2, 2))
    learner = gen((2, 6, 4, 4), 0.9, 0.2).requires_grad_()
    source = FT10[:2, :, :2, :2]
    assert torch.autograd.gradcheck(lambda x: SimKDLoss()(projector(x), source), learner)


def test_half_precision_constant_and_huge_maps_stay_finite():
    projector = build(out_size=(4, 4)).float()
    for maps in (FS, FS * 1e4, torch.zeros_like(FS), torch.full_like(FS, 1e4)):
        learner = maps.bfloat16().requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            value = SimKDLoss()(projector(learner), FT10.bfloat16())
        value.backward()
        assert value.isfinite()
        assert learner.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in projector.parameters())


def test_input_is_not_modified():
    x = FS.clone()
    build()(x)
    assert torch.equal(x, FS)


def test_invalid_arguments_raise():
    for factor in (0, 11):
        with pytest.raises(
            ValueError, match=rf'factor must be in \[1, out_channels = 10\], got {factor}'
        ):
            SimKDProjector(6, 10, factor=factor)
    projector = build(out_size=(1, 1))
    with pytest.raises(ValueError, match=r'batch norm.*\(1, 6, 1, 1\).*batch_size'):
        projector(FS[:1])
    assert projector.eval()(FS[:1]).shape == (1, 10, 1, 1)
    with pytest.raises(ValueError, match=r'pool.*\(N, C, H, W\), got \(4, 6\)'):
        projector(FS[..., 0, 0])
