"""Standardization of logits composes with any loss on logits."""

import pytest
import torch
from torch import nn

from mmkdml.functional import decoupled_kl, prediction_kl, relation_difference, standardized_logits
from mmkdml.models.losses import LSKDLoss, PredictionKLLoss
from mmkdml.registry import MODELS

LABELS = torch.tensor([0, 2, 1, 1])


def logits(seed, shape=(4, 3)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(a, b):
    return prediction_kl(a, b, 2.0, 'source||learner', 'temperature_squared')


@pytest.mark.parametrize(
    ('inner', 'function', 'extra'),
    [
        (None, plain, ()),
        (dict(type='PredictionKLLoss', temperature=1.5), lambda a, b: prediction_kl(a, b, 1.5), ()),
        (PredictionKLLoss(1.5), lambda a, b: prediction_kl(a, b, 1.5), ()),
        (
            dict(type='DKDLoss', alpha=9, beta=72, temperature=2),
            lambda a, b, y: decoupled_kl(a, b, y, 9, 72, 2),
            (LABELS,),
        ),
        (dict(type='mmkdml.DISTLoss'), relation_difference, ()),
        (nn.MSELoss(), nn.functional.mse_loss, ()),
    ],
)
def test_inner_loss_gets_standardized_logits(inner, function, extra):
    learner, source = logits(1), logits(2)
    loss = LSKDLoss(inner)
    expected = function(standardized_logits(learner), standardized_logits(source), *extra)
    assert torch.equal(loss(learner, source, *extra), expected)
    assert expected > 0
    assert loss.needs_truth == bool(extra)
    assert loss.requires_same_shape
    assert not loss.needs_source_classifier
    torch.testing.assert_close(
        loss(5 * learner + 3, source - 9, *extra), expected, rtol=1e-5, atol=0
    )


def test_maps_are_standardized_pixel_by_pixel():
    learner, source = logits(1, (2, 5, 3, 4)), logits(2, (2, 5, 3, 4))
    pixels = [side.movedim(1, -1).reshape(-1, 5) for side in (learner, source)]
    loss = LSKDLoss()
    torch.testing.assert_close(loss(learner, source), loss(*pixels))


@pytest.mark.parametrize('scale', [1.0, 100.0])
def test_gradient_does_not_follow_the_scale_of_the_source(scale):
    learner, source = logits(1).requires_grad_(), logits(2)
    LSKDLoss()(learner, scale * source).backward()
    expected = logits(1).requires_grad_()
    LSKDLoss()(expected, source).backward()
    torch.testing.assert_close(learner.grad, expected.grad, rtol=1e-5, atol=1e-12)
    # The scale of the learner's own logits has no influence, so it is not trained.
    assert (learner.grad * learner.detach()).sum(1).abs().max() < 1e-6
    assert learner.grad.sum(1).abs().max() < 1e-12


class Trained(nn.Module):
    """Loss of a user with an inferred argument and a parameter."""

    needs_truth = True

    def __init__(self, num_classes, learner_channels):
        super().__init__()
        self.scale = nn.Parameter(torch.full((num_classes,), float(learner_channels)))

    def forward(self, learner, source, truth):
        return (self.scale * (learner - source)).square().mean() + 0 * truth.sum()


def test_inferred_arguments_and_parameters_of_the_inner_loss():
    loss = LSKDLoss(
        dict(type=Trained), learner_channels=3, source_channels=3, num_classes=3
    ).double()
    (parameter,) = loss.parameters()
    assert parameter.tolist() == [3, 3, 3]
    loss(logits(1), logits(2), LABELS).backward()
    assert (parameter.grad > 0).all()
    assert 'PredictionKLLoss(temperature=2.0' in repr(MODELS.build(dict(type='LSKDLoss')))
