import math

import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import feature_mse, prediction_kl
from mmkdml.functional.divergence import DIRECTIONS, SCALES
from mmkdml.models.losses import FeatureMSELoss, PredictionKLLoss
from mmkdml.registry import MODELS


def pair(shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=rng, dtype=torch.float64).unbind(0)


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('temperature', [1, 4.0])
@pytest.mark.parametrize('shape', [(4, 3), (2, 1, 3, 3)])
def test_options_reach_the_divergence(shape, temperature, scale, direction):
    loss = MODELS.build(
        dict(type='PredictionKLLoss', temperature=temperature, scale=scale, direction=direction)
    )
    assert torch.equal(
        loss(*pair(shape)), prediction_kl(*pair(shape), temperature, direction, scale)
    )


def test_the_default_is_as_printed():
    # Learner at (3/4, 1/4), source at (1/2, 1/2), both at T = 2.
    learner, source = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    assert PredictionKLLoss()(learner, source).item() == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    )


def test_the_learner_comes_first():
    learner, source = (z.clone().requires_grad_() for z in pair((4, 3)))
    by_name = PredictionKLLoss(direction='source||learner')(learner=learner, source=source)
    # Cross-entropy less entropy, the source's probabilities being the targets.
    p = (source / 2).softmax(1)
    expected = (p * (p.log() - (learner / 2).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(by_name, expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(temperature=0), 'temperature must be a positive number, got 0'),
        (dict(temperature=math.nan), 'temperature must be a positive number, got nan'),
        (
            dict(direction='teacher||student'),
            r"one of learner\|\|source, source\|\|learner; got 'teacher\|\|student'",
        ),
        (dict(scale='T^2'), r"scale must be one of none, temperature_squared; got 'T\^2'"),
    ],
)
def test_options_are_checked_when_it_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        PredictionKLLoss(**options)


def test_it_prints_its_options():
    assert repr(PredictionKLLoss(3, scale='temperature_squared')) == (
        "PredictionKLLoss(temperature=3, direction='learner||source', scale='temperature_squared')"
    )


def test_features():
    loss = MODELS.build(dict(type='FeatureMSELoss'))
    assert isinstance(loss, FeatureMSELoss)
    a, b = pair((2, 3, 4, 4))
    assert torch.equal(loss(a, b), feature_mse(a, b))
    assert torch.equal(loss(learner=a, source=b), ((a - b) ** 2).mean())


@pytest.mark.parametrize('loss', [PredictionKLLoss(), FeatureMSELoss()])
def test_shapes_are_checked(loss):
    with pytest.raises(ValueError, match=r"learner's \(2, 3\) and the source's \(2, 1\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 1))


@pytest.mark.parametrize('loss', [PredictionKLLoss(), FeatureMSELoss()])
def test_neither_side_is_detached_and_nothing_is_learnt_inside(loss):
    # Only the distiller detaches.
    learner, source = (z.clone().requires_grad_() for z in pair((4, 3)))
    loss(learner, source).backward()
    assert (learner.grad != 0).any()
    assert (source.grad != 0).any()
    assert not loss.state_dict()
