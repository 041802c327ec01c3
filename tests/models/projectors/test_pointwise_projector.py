import math

import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.models.losses import FeatureMSELoss
from mmkdml.models.projectors import LinearProjector, PointwiseProjector, Projector
from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(a * index + b) * scale + shift).view(shape)


def test_it_is_a_matrix_product_over_the_channels():
    projector = MODELS.build(dict(type='PointwiseProjector', in_channels=3, out_channels=5))
    assert isinstance(projector, PointwiseProjector)
    assert isinstance(projector, Projector)
    (weight,) = projector.parameters()
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    y = torch.einsum('oc,nchw->nohw', weight.flatten(1), x)
    torch.testing.assert_close(projector(x), y)
    linear = LinearProjector(3, 5, bias=False)
    linear.linear.weight.data = weight.data.flatten(1)
    torch.testing.assert_close(linear(x), y)
    # No bias, and nothing behind it.
    assert (projector(torch.zeros(1, 3, 2, 2)) == 0).all()
    torch.testing.assert_close(projector(-x), -y)


def test_fitnet_of_segmentation_has_the_reference_implementations_value():
    projector = PointwiseProjector(6, 9).double()
    projector.conv.weight.data = gen((9, 6, 1, 1), 0.7, 0.3, 0.1)
    learner = gen((2, 6, 6, 8), 0.05, 0.2, 1, 0.3).requires_grad_()
    value = FeatureMSELoss()(projector(learner), gen((2, 9, 6, 8), 0.07, 0.9, 1, 0.3))
    value.backward()
    assert value.item() == pytest.approx(0.6015373802434117, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.003790237106174987, rel=1e-9)
    assert (projector.conv.weight.grad != 0).any()


def test_the_side():
    assert PointwiseProjector(3, 5).side == 'learner'
    assert PointwiseProjector(3, 5, side='source').side == 'source'
    with pytest.raises(ValueError, match="side must be one of learner, source; got 'teacher'"):
        PointwiseProjector(3, 5, side='teacher')
