"""Fixtures that speed up building networks."""

import pytest
import torch
from torch.nn import init


@pytest.fixture
def uninitialized(monkeypatch):
    """Skip the random initialization of weights, where only shapes matter."""
    for name in ('kaiming_uniform_', 'kaiming_normal_', 'uniform_', 'normal_'):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture(scope='session')
def noise():
    """Uniform and normal random numbers."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.empty(2**20).uniform_(-1, 1, generator=generator)
    return uniform, torch.empty(2**20).normal_(generator=generator)


@pytest.fixture
def recycled_noise(noise, monkeypatch):
    """Initialize weights from the same random numbers, each from another position."""
    generator = torch.Generator().manual_seed(0)
    uniform, normal = noise

    def fill(tensor, noise, scale):
        for part in tensor.detach().view(-1).split(2**19):
            start = int(torch.randint(2**19, (), generator=generator))
            torch.mul(noise[start : start + len(part)], scale, out=part)
        return tensor

    def deviation(tensor, a=0, mode='fan_in', nonlinearity='leaky_relu', **_):
        return (
            init.calculate_gain(nonlinearity, a) / init._calculate_correct_fan(tensor, mode) ** 0.5
        )

    def kaiming_uniform_(tensor, *args, **options):
        return fill(tensor, uniform, 3**0.5 * deviation(tensor, *args, **options))

    def kaiming_normal_(tensor, *args, **options):
        return fill(tensor, normal, deviation(tensor, *args, **options))

    monkeypatch.setattr(init, 'kaiming_uniform_', kaiming_uniform_)
    monkeypatch.setattr(init, 'kaiming_normal_', kaiming_normal_)
