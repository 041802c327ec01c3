"""Fixtures that speed up building networks."""

import math

import pytest
import torch
from torch.nn import init


@pytest.fixture
def uninitialized(monkeypatch):
    """Skip the random initialization of weights, where only shapes matter."""
    for name in ('kaiming_uniform_', 'kaiming_normal_', 'uniform_', 'normal_'):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture
def recycled_noise(monkeypatch):
    """Initialize weights from the same random numbers, each from another position."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.empty(2**20).uniform_(-1, 1, generator=generator)

    def kaiming_uniform_(tensor, a=0, mode='fan_in', nonlinearity='leaky_relu', **_):
        fan = init._calculate_correct_fan(tensor, mode)
        noise_of_tensor = noise * (init.calculate_gain(nonlinearity, a) * math.sqrt(3 / fan))
        for part in tensor.detach().view(-1).split(2**19):
            start = int(torch.randint(2**19, (), generator=generator))
            part.copy_(noise_of_tensor[start : start + len(part)])
        return tensor

    monkeypatch.setattr(init, 'kaiming_uniform_', kaiming_uniform_)
