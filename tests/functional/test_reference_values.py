"""Values and gradients of the reference implementations."""

import math
from functools import partial

import pytest
import torch

from mmkdml.functional import (
    attention_difference,
    channel_wise_kl,
    decoupled_kl,
    feature_correlation,
    feature_mse,
    importance_difference,
    intra_class_variation,
    masked_generation,
    pair_wise_difference,
    prediction_kl,
    relation_difference,
    similarity_difference,
    standardized_logits,
)


def wave(shape, step, start, scale=1.0, shift=0.3):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((step * index + start).sin() * scale + shift).view(shape)


STAGE, OTHER_STAGE = wave((4, 6, 8, 8), 0.011, 0.2), wave((4, 6, 8, 8), 0.017, 0.9)
LEARNER, SOURCE = wave((2, 6, 6, 8), 0.05, 0.2), wave((2, 9, 6, 8), 0.07, 0.9)
MARKED = (7 * torch.arange(2 * 24 * 32) // 11 % 3).view(2, 24, 32)
MARKED[0, :2] = 255
LOGITS, OTHER_LOGITS = wave((4, 7), 0.8, 0.2, 3), wave((4, 7), 1.3, 0.9, 3)
CLASSES = torch.tensor([0, 3, 6, 2])


def standardized(loss, **options):
    return lambda a, b: loss(standardized_logits(a), standardized_logits(b), **options)


def generation(draws, masked):
    """MGD with fixed weights and a mask of fixed draws, as the reference masks them."""
    weights = [
        wave(shape, 0.7 + 0.1 * place, 0.3 * place, 0.4, 0.0)
        for place, shape in enumerate([(9, 6, 1, 1), (9,), (9, 9, 3, 3), (9,), (9, 9, 3, 3), (9,)])
    ]
    conv = torch.nn.functional.conv2d

    def generate(x):
        return conv(conv(x, *weights[2:4], padding=1).relu(), *weights[4:], padding=1)

    kept = (~masked(wave(draws, 1.9, 0.4, 0.5, 0.5))).double()
    return lambda learner, source: masked_generation(
        conv(learner, *weights[:2]), source, kept, generate
    )


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
        (
            lambda learner, source: decoupled_kl(learner, source, CLASSES),
            LOGITS,
            OTHER_LOGITS,
            30.84713070722828,
            4.296646456656873,
        ),
        (
            lambda learner, source: decoupled_kl(learner, source, CLASSES, 1, 0.5, 1),
            LOGITS,
            OTHER_LOGITS,
            1.4532727435674166,
            0.2734297870516079,
        ),
        (
            standardized(prediction_kl, direction='source||learner', scale='temperature_squared'),
            LOGITS,
            OTHER_LOGITS,
            0.7212478347496294,
            0.058062145289728605,
        ),
        (
            standardized(decoupled_kl, truth=CLASSES, alpha=9, beta=72, temperature=2),
            LOGITS,
            OTHER_LOGITS,
            56.54331819715245,
            4.836180692242673,
        ),
        (
            partial(relation_difference, beta=2, gamma=2),
            LOGITS,
            OTHER_LOGITS,
            3.3394305353960405,
            0.5846216149569708,
        ),
        (
            partial(relation_difference, temperature=4),
            LOGITS,
            OTHER_LOGITS,
            28.954757496363488,
            3.395178716668792,
        ),
        (
            relation_difference,
            wave((2, 3, 6, 8), 0.21, 0.4, 3, 0),
            wave((2, 3, 6, 8), 0.33, 0.8, 3, 0),
            2.045331726101696,
            0.05374828616260276,
        ),
        (
            feature_correlation,
            LEARNER,
            wave((2, 6, 6, 8), 0.07, 0.9),
            1.1131053913608069,
            0.05617295879967989,
        ),
        (
            feature_correlation,
            wave((2, 6, 3, 4), 0.05, 0.2),
            wave((2, 6, 6, 8), 0.07, 0.9),
            0.875621516488644,
            0.16664922521321374,
        ),
        (  # With the weights of the reference, 7e-5 and 2e-5.
            generation((2, 9, 1, 1), lambda draws: draws < 0.15),
            LEARNER,
            SOURCE,
            0.0560434595175767 / 7e-5,
            0.08414059173470158 / 7e-5,
        ),
        (
            generation((2, 1, 6, 8), lambda draws: draws > 1 - 0.75),
            LEARNER,
            SOURCE,
            0.022011103437608457 / 2e-5,
            0.018507360370278617 / 2e-5,
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
