import math

import pytest
import torch

from mmkdml.registry import MODELS


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def divergences(learner, source, temperature):
    """Sum T^2 * KL over images and channels element by element."""
    total = 0.0
    for own, other in zip(learner.flatten(0, 1), source.flatten(0, 1), strict=True):
        powers = [
            [math.exp(value / temperature) for value in channel.flatten().tolist()]
            for channel in (own, other)
        ]
        s, t = ([value / sum(channel) for value in channel] for channel in powers)
        total += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
    return temperature**2 * total


def build(reference, learner_channels, source_channels):
    return MODELS.build(
        dict(
            type='ChannelWiseLoss',
            reference=reference,
            learner_channels=learner_channels,
            source_channels=source_channels,
        )
    ).double()


@pytest.mark.parametrize('reference', ['cirkd', 'origin'])
def test_equal_channels_are_compared_without_parameters(reference):
    loss = build(reference, 3, 3)
    learner, source = maps(2, 3, 4, 6), maps(2, 3, 4, 6, seed=1)
    assert not list(loss.parameters())
    expected = divergences(learner, source, 4.0) / (2 * 3)
    assert loss(learner, source).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('channels', [(3, 5), (5, 3), (4, 2)])
def test_different_channels_match_explicit_sums(channels):
    loss = build('cirkd', *channels)
    learner, source = maps(2, channels[0], 3, 4), maps(2, channels[1], 3, 4, seed=1)
    (weight,) = loss.parameters()
    assert weight.shape == (channels[1], channels[0], 1, 1)
    projected = torch.einsum('oc,nchw->nohw', weight.detach()[:, :, 0, 0], learner)
    expected = divergences(projected, source, 4.0) / (2 * channels[0])
    assert loss(learner, source).item() == pytest.approx(expected, rel=1e-9)
    # The original code divides by the number of channels that are compared.
    origin = build('origin', channels[1], channels[1])(projected, source)
    assert origin.item() == pytest.approx(expected * channels[0] / channels[1], rel=1e-9)


@pytest.mark.parametrize('channels', [(2, 2), (2, 3)])
def test_gradients_of_learner_and_convolution(channels):
    loss = build('cirkd', *channels)
    learner = maps(2, channels[0], 2, 3).requires_grad_()
    source = maps(2, channels[1], 2, 3, seed=1)
    parameters = list(loss.parameters())
    assert torch.autograd.gradcheck(lambda *_: loss(learner, source), (learner, *parameters))
    loss(learner, source).backward()
    assert all((tensor.grad != 0).any() for tensor in (learner, *parameters))
