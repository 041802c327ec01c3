import math

import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.models.losses import FitNetLoss, SimKDLoss
from mmkdml.models.projectors import ConvReg
from mmkdml.registry import MODELS

NAMES = ['FitNetLoss', 'SimKDLoss']


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT = gen((4, 6, 8, 8), 0.017, 0.9, 1, 0.3)


def test_they_are_registered():
    assert isinstance(MODELS.build(dict(type='FitNetLoss')), FitNetLoss)
    assert isinstance(MODELS.build(dict(type='SimKDLoss')), SimKDLoss)
    assert not FitNetLoss.requires_same_shape
    assert not SimKDLoss.requires_same_shape


@pytest.mark.parametrize('name', NAMES)
def test_values_of_the_reference_implementation(name):
    learner = FS.clone().requires_grad_()
    value = MODELS.build(dict(type=name))(learner, FT)
    value.backward()
    assert value.item() == pytest.approx(1.1175047003064236, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.05394597751808109, rel=1e-9)


@pytest.mark.parametrize('name', NAMES)
def test_the_larger_map_is_averaged(name):
    loss = MODELS.build(dict(type=name))
    large, small = FS[..., :4, :6], FT[..., :2, :3]
    squares = [
        (large[n, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() - small[n, c, y, x]).item() ** 2
        for n in range(4)
        for c in range(6)
        for y in range(2)
        for x in range(3)
    ]
    expected = sum(squares) / len(squares)
    assert loss(large, small).item() == pytest.approx(expected, rel=1e-12)
    assert loss(small, large).item() == pytest.approx(expected, rel=1e-12)


def test_with_the_connector_of_a_learner_that_is_too_small():
    learner, source = FS[..., :3, :3].clone().requires_grad_(), FT
    connector = ConvReg(6, 6, (3, 3), (8, 8)).double()
    value = FitNetLoss()(connector(learner), source)
    value.backward()
    expected = (connector(learner) - torch.nn.functional.adaptive_avg_pool2d(source, 3)) ** 2
    torch.testing.assert_close(value, expected.mean())
    assert (learner.grad != 0).any()


@pytest.mark.parametrize('name', NAMES)
def test_bad_input(name):
    loss = MODELS.build(dict(type=name))
    with pytest.raises(
        ValueError, match=r"learner's \(4, 6, 8, 8\) and the source's \(4, 5, 8, 8\)"
    ):
        loss(FS, FT[:, :5])
    with pytest.raises(ValueError, match=r'Expected two feature maps .*\(4, 6\)'):
        loss(FS[..., 0, 0], FT)


@pytest.mark.parametrize('name', NAMES)
def test_half_precision_and_huge_maps_stay_finite(name):
    learner = (FS * 1e4).bfloat16().requires_grad_()
    value = MODELS.build(dict(type=name))(learner, FT[..., :2, :2].bfloat16())
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert learner.grad.isfinite().all()
