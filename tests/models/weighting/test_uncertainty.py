"""Uncertainty weighting against the closed forms of its values, gradients and minimum."""

import math

import pytest
import torch

from mmkdml.models.weighting import UncertaintyWeighting, WeightedLoss

ROWS = (
    WeightedLoss('', 0.2),
    WeightedLoss('s.loss_from_t.features', 0.5, 'features'),
    WeightedLoss('s.loss_from_t.predictions', 0.3, 'predictions'),
)
KINDS = (1.0, 0.5, 1.0)  # equations 7 and 10 of the paper
LOSSES = (1.5, 0.02, 7.0)


def losses(requires_grad=True):
    keys = ['s.loss', 's.loss_from_t.features', 's.loss_from_t.predictions']
    values = [torch.tensor(x, dtype=torch.float64) for x in LOSSES]
    return dict(zip(keys, (x.requires_grad_(requires_grad) for x in values), strict=True))


def weighting(variances=(0.0, 0.0, 0.0)):
    module = UncertaintyWeighting(dict(s=ROWS)).double()
    with torch.no_grad():
        module.log_variances['s'].copy_(torch.tensor(variances))
    return module


def total(log):
    return sum(value for key, value in log.items() if 'loss' in key)


def test_values_and_gradients():
    variances = (0.4, -1.3, 2.0)
    module, log = weighting(variances), losses()
    found = total(module(log, dict(s=None)))
    factors = [c * math.exp(-s) for c, s in zip(KINDS, variances, strict=True)]
    expected = sum(f * x for f, x in zip(factors, LOSSES, strict=True)) + sum(variances) / 2
    assert found.item() == pytest.approx(expected)
    found.backward()
    assert [x.grad.item() for x in log.values()] == pytest.approx(factors)
    by_variance = [0.5 - f * x for f, x in zip(factors, LOSSES, strict=True)]
    assert module.log_variances['s'].grad.tolist() == pytest.approx(by_variance)


def test_equals_the_printed_formula():
    """1 / (2 sigma^2) * L + log(sigma) for features, 1 / sigma^2 * L + log(sigma) otherwise."""
    sigmas = (0.5, 1.7, 3.0)
    log = weighting([2 * math.log(x) for x in sigmas])(losses(), dict(s=None))
    printed = (
        1 / sigmas[0] ** 2 * LOSSES[0]
        + 1 / (2 * sigmas[1] ** 2) * LOSSES[1]
        + 1 / sigmas[2] ** 2 * LOSSES[2]
        + math.log(sigmas[0] * sigmas[1] * sigmas[2])
    )
    assert total(log).item() == pytest.approx(printed)


def test_training_reaches_the_minimum():
    module = weighting()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        total(module(losses(), dict(s=None))).backward()
        optimizer.step()
    expected = [math.log(2 * c * x) for c, x in zip(KINDS, LOSSES, strict=True)]
    assert module.log_variances['s'].tolist() == pytest.approx(expected, abs=1e-4)
    log = module(losses(), dict(s=None))
    weighted = [log[key].item() for key in losses()]
    assert weighted == pytest.approx([0.5] * 3, abs=1e-4)


def test_weights_begin_with_those_of_the_config():
    log = weighting()(losses(), dict(s=None))
    names = ['s.weight_supervised', 's.weight_from_t.features', 's.weight_from_t.predictions']
    assert [log[name].item() for name in names] == pytest.approx([0.2, 0.25, 0.3])
