import math

import pytest
import torch
from torch import nn

from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT10 = gen((4, 10, 4, 4), 0.023, 0.5, 1, 0.3)


def filled(loss):
    """Set the weights by a formula; keep the variances."""
    loss.double()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(loss.named_parameters()):
            if 'log_scale' not in name:
                parameter.copy_(gen(parameter.shape, 0.7, 0.3 + number, 0.1))
    return loss


def build(learner_channels=6, source_channels=10, **options):
    return MODELS.build(
        dict(
            type='VariationalInformationLoss',
            learner_channels=learner_channels,
            source_channels=source_channels,
            **options,
        )
    )


def slow(learner, source, weights, variance):
    """Compute the loss pixel by pixel at the smaller size, which divides the larger."""
    height = min(learner.shape[2], source.shape[2])

    def cell(features, n, y, x):
        k = features.shape[2] // height
        cut = features[n, :, k * y : k * y + k, k * x : k * x + k]
        return [channel.mean().item() for channel in cut]

    terms = []
    for n in range(len(learner)):
        for y in range(height):
            for x in range(height):
                vector = cell(learner, n, y, x)
                for number, weight in enumerate(weights):
                    vector = [
                        sum(w * v for w, v in zip(row, vector, strict=True))
                        for row in weight.flatten(1).tolist()
                    ]
                    if number < 2:
                        vector = [max(v, 0) for v in vector]
                for expected, actual in zip(vector, cell(source, n, y, x), strict=True):
                    terms.append((expected - actual) ** 2 / variance + math.log(variance))
    return sum(terms) / len(terms) / 2


def test_matches_explicit_sums():
    loss = filled(build())
    names = [name.removeprefix('expectations.0.') for name, _ in loss.named_parameters()]
    assert names == ['log_scale', *(f'regressor.{i}.weight' for i in (0, 2, 4))]
    weights = list(loss.parameters())[1:]
    assert [tuple(w.shape) for w in weights] == [(10, 6, 1, 1), (10, 10, 1, 1), (10, 10, 1, 1)]
    value = loss(FS, FT10)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(FS, FT10, weights, 5.0), rel=1e-7)
    exact = math.log1p(math.exp(loss.expectations[0].log_scale[0].item())) + 1e-5
    assert value.item() == pytest.approx(slow(FS, FT10, weights, exact), rel=1e-10)


@pytest.mark.parametrize('variance', [0.5, 5.0])
def test_initial_variance(variance):
    loss = build(initial_variance=variance)
    scale = loss.expectations[0].log_scale
    assert scale.shape == (10,)
    torch.testing.assert_close(nn.functional.softplus(scale) + 1e-5, torch.full((10,), variance))
    if variance == 5:
        assert scale[3].item() == pytest.approx(4.99322916, abs=1e-6)


@pytest.mark.parametrize('sizes', [(8, 4), (4, 8), (4, 4)])
def test_larger_map_is_pooled_before_the_regressor(sizes):
    learner, source = FS[..., : sizes[0], : sizes[0]], gen((4, 10, *sizes[1:] * 2), 0.023, 0.5)
    loss = filled(build())
    scale = loss.expectations[0].log_scale[0].item()
    expected = slow(
        learner, source, list(loss.parameters())[1:], math.log1p(math.exp(scale)) + 1e-5
    )
    assert loss(learner, source).item() == pytest.approx(expected, rel=1e-10)


def test_all_parameters_including_variances_are_trained():
    loss = build([6, 6], [10, 6])
    loss([FS.float(), FS.float()], [FT10.float(), -FS.float()]).backward()
    parameters = dict(loss.named_parameters())
    assert len(parameters) == 8
    assert all((parameter.grad != 0).any() for parameter in parameters.values())
    scales = {name for name in parameters if name.endswith('log_scale')}
    assert scales == {'expectations.0.log_scale', 'expectations.1.log_scale'}
    assert scales < set(loss.state_dict())
    before = {name: parameters[name].detach().clone() for name in scales}
    torch.optim.SGD(loss.parameters(), lr=0.1).step()
    assert all(not torch.equal(parameters[name], before[name]) for name in scales)


def test_loss_is_summed_over_pairs_of_taps():
    loss = build([6, 10], [10, 6]).double()
    own, other = [FS, FT10], [FT10, FS]
    expected = sum(
        part(a, b, 1e-5) for part, a, b in zip(loss.expectations, own, other, strict=True)
    )
    torch.testing.assert_close(loss(own, other), expected)
    assert not loss.requires_same_shape


def test_gradient_of_the_learner():
    loss = filled(build(2, 3))
    learner = gen((2, 2, 4, 4), 0.7, 0.2).requires_grad_()
    source = gen((2, 3, 2, 2), 0.3, 0.5)
    assert torch.autograd.gradcheck(lambda features: loss(features, source), learner)
