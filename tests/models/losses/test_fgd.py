"""FGD against values of its reference code, and its parameters and ground truth."""

import math

import pytest
import torch

from mmkdml.functional import focal_difference
from mmkdml.functional.boxes import Objects
from mmkdml.models.losses import FGDLoss

BOXES = [
    torch.tensor([[0.05, 0.1, 0.45, 0.6], [0.2, 0.3, 0.9, 0.95], [0.3, 0.4, 0.35, 0.45]]),
    torch.zeros(0, 4),
    torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
]
TRUTH = [Objects(boxes, torch.zeros(len(boxes), dtype=torch.long)) for boxes in BOXES]
EMPTY = [Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))] * 3
OF_FCOS = dict(temperature=0.8, alpha=1.6e-3, beta=8e-4, gamma=8e-4, lambda_=8e-6)


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


def maps(learner_channels=6, source_channels=6, size=(6, 8)):
    return (
        gen((3, learner_channels, *size), 0.011, 0.2, 1, 0.3),
        gen((3, source_channels, *size), 0.023, 0.5, 1.5, 0.3),
    )


def filled(*channels, **options):
    """Build a loss with weights by a formula, as the reference for the values below."""
    loss = FGDLoss(*channels, **options).double()
    parameters = list(loss.parameters())
    with torch.no_grad():
        for number, parameter in enumerate(parameters, start=18 - len(parameters)):
            parameter.copy_(gen(parameter.shape, 0.7, 0.3 + number, 0.3))
    return loss


# Values of yzd-v/FGD:mmdet/distillation/losses/fgd.py and their gradient's norms.
@pytest.mark.parametrize(
    ('channels', 'options', 'truth', 'expected', 'norm'),
    [
        (6, {}, TRUTH, 0.017647370216488625, 0.0020703090488991657),
        (4, {}, TRUTH, 0.0198066398783014, 0.0012976566380960006),
        (6, OF_FCOS, TRUTH, 0.02776019090615802, 0.002682235853059644),
        (6, {}, EMPTY, 0.011188218081950179, 0.0016970156684753476),
        (4, dict(alpha=0, beta=0, gamma=0, lambda_=1), TRUTH, 342.6464231599994, 7.474975464726113),
    ],
)
def test_equals_the_reference(channels, options, truth, expected, norm):
    loss = filled(channels, 6, **options)
    learner, source = maps(channels)
    value = loss(learner.requires_grad_(), source, truth)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(norm, rel=1e-9)
    trained = [parameter.grad.abs().sum() > 0 for parameter in loss.parameters()]
    # An offset of the attention changes no softmax.
    assert trained.count(False) <= 2


def test_global_part_starts_as_the_difference_of_the_maps():
    learner, source = maps()
    loss = FGDLoss(6, 6).double()
    expected = focal_difference(learner, source, BOXES)
    expected = expected + 5e-6 * (learner - source).square().sum() / 3
    torch.testing.assert_close(loss(learner, source, TRUTH), expected)


def test_levels_are_summed_and_have_parameters_of_their_own():
    sizes = (6, 8), (3, 4), (1, 1)
    channels = (4, 6, 2), (6, 6, 2)
    pairs = [maps(*one, size=size) for *one, size in zip(*channels, sizes, strict=True)]
    loss = filled(*map(list, channels))
    expected = 0
    for level, pair, one in zip(loss.levels, pairs, zip(*channels, strict=True), strict=True):
        single = FGDLoss(*one).double()
        single.levels[0].load_state_dict(level.state_dict())
        expected = expected + single(*pair, TRUTH)
    learners, sources = map(list, zip(*pairs, strict=True))
    torch.testing.assert_close(loss(learners, sources, TRUTH), expected)
    with pytest.raises(ValueError, match='learner: expected 3, .*got 2'):
        loss(learners[:2], sources[:2], TRUTH)


def test_labels_instead_of_boxes_raise():
    with pytest.raises(ValueError, match=r'FGDLoss: expected the boxes .* detection has.*\(3,\)'):
        FGDLoss(6, 6)(*maps(), torch.zeros(3, dtype=torch.long))


def test_wrong_boxes_raise():
    with pytest.raises(ValueError, match='expected 3 tensors'):
        FGDLoss(6, 6).double()(*maps(), TRUTH[:2])
