import math

import pytest
import torch

from mmkdml.functional import feature_mse
from mmkdml.models.losses import FeatureMSELoss, PixelWiseLoss, PredictionKLLoss
from mmkdml.registry import MODELS


def pair(shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=rng, dtype=torch.float64).unbind(0)


def test_default_follows_the_paper():
    # Learner at (3/4, 1/4), source at (1/2, 1/2), both at T = 2.
    learner, source = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    assert PredictionKLLoss()(learner, source).item() == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    )


def test_learner_is_the_first_argument():
    learner, source = (z.clone().requires_grad_() for z in pair((4, 3)))
    by_name = PredictionKLLoss(direction='source||learner')(learner=learner, source=source)
    # Cross-entropy minus entropy with the source's probabilities as targets.
    p = (source / 2).softmax(1)
    expected = (p * (p.log() - (learner / 2).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(by_name, expected)


def test_features_are_compared_by_mean_squared_error():
    loss = MODELS.build(dict(type='FeatureMSELoss'))
    a, b = pair((2, 3, 4, 4))
    assert torch.equal(loss(a, b), feature_mse(a, b))
    assert torch.equal(loss(learner=a, source=b), ((a - b) ** 2).mean())


@pytest.mark.parametrize('loss', [PredictionKLLoss(), FeatureMSELoss()])
def test_neither_side_is_detached(loss):
    # Detaching is up to the distiller.
    learner, source = (z.clone().requires_grad_() for z in pair((4, 3)))
    loss(learner, source).backward()
    assert (learner.grad != 0).any()
    assert (source.grad != 0).any()


@pytest.mark.parametrize('num_logits', [1, 2, 4])
def test_prediction_maps_of_emkd(num_logits):
    learner, source = pair((2, num_logits, 4, 6))
    p, s = (
        (torch.cat([torch.zeros_like(z), z], 1) if num_logits == 1 else z).div(4).softmax(1)
        for z in (source, learner)
    )
    expected = 16 * (p * (p / s).log()).sum() / (2 * 4 * 6)
    loss = PredictionKLLoss(4, 'source||learner', 'temperature_squared')
    torch.testing.assert_close(loss(learner, source), expected)


def test_pixel_wise_loss_of_cirkd_is_plain_distillation():
    kl = PredictionKLLoss(1.0, 'source||learner', 'temperature_squared')
    sides = pair((2, 3, 4, 6))
    torch.testing.assert_close(PixelWiseLoss()(*sides), kl(*sides))
