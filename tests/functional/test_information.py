import math

import pytest
import torch

from mmkdml.functional import variational_information


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(mean, source, log_scale, eps):
    terms = []
    for index in torch.cartesian_prod(*map(torch.arange, mean.shape)).tolist():
        variance = math.log(1 + math.exp(log_scale[index[1]].item())) + eps
        distance = mean[tuple(index)].item() - source[tuple(index)].item()
        terms.append(0.5 * (distance**2 / variance + math.log(variance)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize('eps', [1e-5, 1e-6, 0.1])
@pytest.mark.parametrize('shape', [(3, 4), (2, 3, 4, 5), (2, 1, 1, 1)])
def test_matches_explicit_sums(shape, eps):
    arguments = drawn(*shape), drawn(*shape, seed=1), drawn(shape[1], seed=2)
    value = variational_information(*arguments, eps)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(*arguments, eps), rel=1e-10)


def test_is_the_gaussian_likelihood_without_its_constant():
    mean, source, log_scale = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1), drawn(3, seed=2)
    variance = log_scale.exp().log1p() + 1e-5
    density = torch.distributions.Normal(mean, variance.sqrt().view(3, 1, 1))
    expected = -density.log_prob(source).mean() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(variational_information(mean, source, log_scale), expected)


def test_minimum_is_at_the_true_variance_and_may_be_negative():
    source = drawn(8, 2, 16, 16) * 0.1
    mean = torch.zeros_like(source)
    variance = source.square().mean(dim=(0, 2, 3)) - 1e-5
    best = torch.log(torch.expm1(variance)).requires_grad_()
    value = variational_information(mean, source, best)
    value.backward()
    assert value < -1
    assert best.grad.abs().max() < 1e-12
    for shift in (-0.5, 0.5):
        assert variational_information(mean, source, best + shift) > value


@pytest.mark.parametrize('log_scale', [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_extreme_variances_stay_finite(log_scale):
    mean = torch.full((2, 3, 2, 2), 1e4, requires_grad=True)
    scales = torch.full((3,), log_scale, requires_grad=True)
    value = variational_information(mean, -mean.detach(), scales)
    value.backward()
    assert value.isfinite()
    assert mean.grad.isfinite().all()
    assert scales.grad.isfinite().all()
