import math

import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import channel_wise_kl
from mmkdml.models.losses import ChannelWiseLoss
from mmkdml.registry import MODELS


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def divergences(learner, source, temperature):
    """Sum of T^2 * KL over images and channels, element by element."""
    total = 0.0
    for own, other in zip(learner.flatten(0, 1), source.flatten(0, 1), strict=True):
        powers = [
            [math.exp(value / temperature) for value in channel.flatten().tolist()]
            for channel in (own, other)
        ]
        s, t = ([value / sum(channel) for value in channel] for channel in powers)
        total += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
    return temperature**2 * total


def built(reference, learner_channels, source_channels):
    return MODELS.build(
        dict(
            type='ChannelWiseLoss',
            reference=reference,
            learner_channels=learner_channels,
            source_channels=source_channels,
        )
    ).double()


@pytest.mark.parametrize('temperature', [1, 4.0])
@pytest.mark.parametrize('channels', [1, 3])
def test_options_reach_the_function(channels, temperature):
    loss = MODELS.build(dict(type='ChannelWiseLoss', temperature=temperature))
    sides = maps(2, channels, 4, 6), maps(2, channels, 4, 6, seed=1)
    assert torch.equal(loss(*sides), channel_wise_kl(*sides, temperature))
    assert not loss.state_dict()
    assert repr(loss) == f"ChannelWiseLoss(temperature={temperature}, reference='cirkd')"


@pytest.mark.parametrize('reference', ['cirkd', 'origin'])
def test_equal_channels_are_compared_as_they_are(reference):
    loss = built(reference, 3, 3)
    learner, source = maps(2, 3, 4, 6), maps(2, 3, 4, 6, seed=1)
    assert not list(loss.parameters())
    expected = divergences(learner, source, 4.0) / (2 * 3)
    assert loss(learner, source).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('channels', [(3, 5), (5, 3), (4, 2)])
def test_different_channels_as_in_cirkd(channels):
    loss = built('cirkd', *channels)
    learner, source = maps(2, channels[0], 3, 4), maps(2, channels[1], 3, 4, seed=1)
    (weight,) = loss.parameters()
    assert weight.shape == (channels[1], channels[0], 1, 1)
    projected = torch.einsum('oc,nchw->nohw', weight.detach()[:, :, 0, 0], learner)
    expected = divergences(projected, source, 4.0) / (2 * channels[0])
    assert loss(learner, source).item() == pytest.approx(expected, rel=1e-9)
    # The origin divides by the channels that are compared.
    origin = built('origin', channels[1], channels[1])(projected, source)
    assert origin.item() == pytest.approx(expected * channels[0] / channels[1], rel=1e-9)


@pytest.mark.parametrize('channels', [(2, 2), (2, 3)])
def test_gradients_reach_the_learner_and_the_convolution(channels):
    loss = built('cirkd', *channels)
    learner = maps(2, channels[0], 2, 3).requires_grad_()
    source = maps(2, channels[1], 2, 3, seed=1)
    parameters = list(loss.parameters())
    assert torch.autograd.gradcheck(lambda *_: loss(learner, source), (learner, *parameters))
    loss(learner, source).backward()
    assert all((tensor.grad != 0).any() for tensor in (learner, *parameters))


def test_different_channels_need_a_projector_in_the_origin():
    loss = built('origin', 3, 5)
    assert not list(loss.parameters())
    with pytest.raises(ValueError, match=r"learner's \(2, 3, 4, 6\) and the source's \(2, 5, 4, 6"):
        loss(maps(2, 3, 4, 6), maps(2, 5, 4, 6))


def test_options_are_checked_when_it_is_built():
    with pytest.raises(ValueError, match='temperature must be a positive number, got 0'):
        ChannelWiseLoss(temperature=0)
    with pytest.raises(ValueError, match="reference.*cirkd, origin.*'skd'"):
        ChannelWiseLoss(reference='skd')
    with pytest.raises(ValueError, match='divisor.*at least 1, got 0'):
        channel_wise_kl(maps(1, 2, 2, 2), maps(1, 2, 2, 2), divisor=0)
