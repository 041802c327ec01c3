import math

import pytest
import torch

from mmkdml.models.losses import FitNetLoss
from mmkdml.models.projectors import ConvReg
from mmkdml.registry import MODELS

NAMES = ['FitNetLoss', 'SimKDLoss']


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT = gen((4, 6, 8, 8), 0.017, 0.9, 1, 0.3)


@pytest.mark.parametrize('name', NAMES)
def test_larger_map_is_average_pooled(name):
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


def test_source_is_pooled_to_a_smaller_projected_learner():
    learner, source = FS[..., :3, :3].clone().requires_grad_(), FT
    connector = ConvReg(6, 6, (3, 3), (8, 8)).double()
    value = FitNetLoss()(connector(learner), source)
    value.backward()
    expected = (connector(learner) - torch.nn.functional.adaptive_avg_pool2d(source, 3)) ** 2
    torch.testing.assert_close(value, expected.mean())
    assert (learner.grad != 0).any()
