import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import pair_wise_difference, pixel_wise_divergence
from mmkdml.models.losses import PairWiseLoss, PixelWiseLoss, PredictionKLLoss
from mmkdml.registry import MODELS


def maps(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize('reference', ['cirkd', 'skd', 'ifvd'])
@pytest.mark.parametrize('num_logits', [1, 3])
def test_pixel_wise(num_logits, reference):
    loss = MODELS.build(dict(type='PixelWiseLoss', reference=reference))
    learner, source = maps(2, num_logits, 4, 6), maps(2, num_logits, 4, 6, seed=1)
    assert torch.equal(loss(learner, source), pixel_wise_divergence(learner, source, reference))
    assert not loss.state_dict()


def test_pixel_wise_default_is_cirkds_plain_distillation():
    kl = PredictionKLLoss(1.0, 'source||learner', 'temperature_squared')
    sides = maps(2, 3, 4, 6), maps(2, 3, 4, 6, seed=1)
    torch.testing.assert_close(PixelWiseLoss()(*sides), kl(*sides))


@pytest.mark.parametrize('options', [{}, dict(reference='skd'), dict(reference='skd', scale=0.25)])
def test_pair_wise(options):
    loss = MODELS.build(dict(type='PairWiseLoss', **options))
    learner, source = maps(2, 3, 4, 8), maps(2, 5, 4, 8, seed=1)
    assert torch.equal(loss(learner, source), pair_wise_difference(learner, source, **options))
    assert loss.requires_same_shape is False
    assert not loss.state_dict()


def test_options_are_checked_when_it_is_built_and_printed():
    for kind in (PixelWiseLoss, PairWiseLoss):
        with pytest.raises(ValueError, match="reference must be one of cirkd, skd.*; got 'paper'"):
            kind(reference='paper')
    with pytest.raises(ValueError, match=r'scale must be in \(0, 1\], got 0'):
        PairWiseLoss(scale=0)
    assert repr(PixelWiseLoss()) == "PixelWiseLoss(reference='cirkd')"
    assert repr(PairWiseLoss('skd')) == "PairWiseLoss(reference='skd', scale=0.5)"
