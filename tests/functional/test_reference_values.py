"""Values and gradients of the reference implementations."""

import math
from functools import partial

import pytest
import torch

from mmkdml.functional import (
    attention_difference,
    channel_wise_kl,
    feature_mse,
    importance_difference,
    intra_class_variation,
    pair_wise_difference,
    similarity_difference,
)


def wave(shape, step, start, scale=1.0, shift=0.3):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((step * index + start).sin() * scale + shift).view(shape)


STAGE, OTHER_STAGE = wave((4, 6, 8, 8), 0.011, 0.2), wave((4, 6, 8, 8), 0.017, 0.9)
LEARNER, SOURCE = wave((2, 6, 6, 8), 0.05, 0.2), wave((2, 9, 6, 8), 0.07, 0.9)
MARKED = (7 * torch.arange(2 * 24 * 32) // 11 % 3).view(2, 24, 32)
MARKED[0, :2] = 255


# The loss and the norm of the learner's gradient, computed with the reference implementations.
@pytest.mark.parametrize(
    ('function', 'learner', 'source', 'loss', 'gradient'),
    [
        (feature_mse, STAGE, OTHER_STAGE, 1.1175047003064236, 0.05394597751808109),
        (attention_difference, STAGE, OTHER_STAGE, 7.64744552856658e-05, 0.0002204631943269485),
        (importance_difference, LEARNER, SOURCE, 0.1393744189934168, 0.15653833438777534),
        (
            similarity_difference,
            STAGE,
            wave((4, 10, 4, 4), 0.023, 0.5),
            0.1590324129591575,
            0.017328193755024063,
        ),
        (
            channel_wise_kl,
            wave((2, 3, 6, 8), 0.21, 0.4, 3, 0),
            wave((2, 3, 6, 8), 0.33, 0.8, 3, 0),
            4.1271356575361535,
            0.16632402980422945,
        ),
        (
            lambda learner, source: intra_class_variation(learner, source, MARKED, 3),
            LEARNER,
            SOURCE,
            0.04882869715079529,
            0.017327154501469783,
        ),
        (  # In float32, whose sums depend on the processor.
            partial(pair_wise_difference, reference='skd'),
            LEARNER,
            wave((2, 6, 6, 8), 0.07, 0.9),
            pytest.approx(0.051836781203746796, abs=1e-8),
            pytest.approx(0.10005657987055719, abs=1e-7),
        ),
    ],
)
def test_values_of_the_reference_implementations(function, learner, source, loss, gradient):
    learner = learner.clone().requires_grad_()
    value = function(learner, source)
    value.backward()
    exact = [pytest.approx(x, rel=1e-9) if isinstance(x, float) else x for x in (loss, gradient)]
    assert [value.item(), learner.grad.norm().item()] == exact
