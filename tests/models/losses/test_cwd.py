import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import channel_wise_kl
from mmkdml.models.losses import ChannelWiseLoss
from mmkdml.models.projectors import LinearProjector
from mmkdml.registry import MODELS


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('temperature', [1, 4.0])
@pytest.mark.parametrize('channels', [1, 3])
def test_options_reach_the_function(channels, temperature):
    loss = MODELS.build(dict(type='ChannelWiseLoss', temperature=temperature))
    sides = maps(2, channels, 4, 6), maps(2, channels, 4, 6, seed=1)
    assert torch.equal(loss(*sides), channel_wise_kl(*sides, temperature))
    assert not loss.state_dict()
    assert repr(loss) == f'ChannelWiseLoss(temperature={temperature})'


def test_of_features_the_projector_learns():
    loss, projector = ChannelWiseLoss(), LinearProjector(3, 5, bias=False)
    learner, source = maps(2, 3, 4, 6).requires_grad_(), maps(2, 5, 4, 6, seed=1)
    value = loss(projector(learner), source)
    value.backward()
    assert torch.equal(value, channel_wise_kl(projector(learner), source, 4.0))
    assert (learner.grad != 0).any()
    assert (projector.linear.weight.grad != 0).any()
    with pytest.raises(ValueError, match=r"learner's \(2, 3, 4, 6\) and the source's \(2, 5, 4, 6"):
        loss(learner, source)


def test_the_temperature_is_checked_when_it_is_built():
    with pytest.raises(ValueError, match='temperature must be a positive number, got 0'):
        ChannelWiseLoss(temperature=0)
