import math

import pytest
import torch
from torch import nn

from mmkdml.models.losses import SRRLLoss
from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT10S = gen((4, 10, 8, 8), 0.023, 0.5, 1, 0.3)
PS = gen((4, 6), 0.41, 0.3, 1, 0.2)
PT = gen((4, 10), 0.29, 0.6, 1, 0.2)


def classifier():
    linear = nn.Linear(10, 7, dtype=torch.float64).requires_grad_(False)
    linear.weight.copy_(gen((7, 10), 0.31, 0.2, 0.5))
    linear.bias.copy_(gen((7,), 0.9, 0.1, 0.2))
    return linear


def build(**options):
    loss = MODELS.build(dict(type='SRRLLoss', learner_channels=6, source_channels=10, **options))
    loss.double()
    with torch.no_grad():
        loss.connector[0].weight.copy_(gen((10, 6, 1, 1), 0.7, 0.3, 0.1))
    return loss


def slow(learner, source, loss, weight):
    """Apply the connector at every position, then average, then compute the logits."""
    kernel = loss.connector[0].weight.flatten(1).tolist()
    samples = [sample.flatten(1).T.tolist() for sample in learner]  # positions of channels
    mapped = [
        [[sum(w * v for w, v in zip(row, x, strict=True)) for row in kernel] for x in sample]
        for sample in samples
    ]
    for channel in range(10):
        values = [x[channel] for sample in mapped for x in sample]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        for sample in mapped:
            for x in sample:
                x[channel] = max((x[channel] - mean) / math.sqrt(variance + 1e-5), 0)
    own = [[sum(column) / len(sample) for column in zip(*sample, strict=True)] for sample in mapped]
    other = [[channel.mean().item() for channel in sample] for sample in source]
    head = classifier()

    def logits(vector):
        return [
            sum(w * v for w, v in zip(row, vector, strict=True)) + bias
            for row, bias in zip(head.weight.tolist(), head.bias.tolist(), strict=True)
        ]

    def distance(pairs):
        squares = [(a - b) ** 2 for p, q in pairs for a, b in zip(p, q, strict=True)]
        return sum(squares) / len(squares)

    pairs = list(zip(own, other, strict=True))
    return distance(pairs) + weight * distance([(logits(a), logits(b)) for a, b in pairs])


@pytest.mark.parametrize('weight', [1.0, 0.3])
def test_simkd_matches_explicit_sums_on_pooled_features(weight):
    loss = build(weight=weight)
    value = loss(PS, PT, classifier())
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(PS[..., None, None], PT, loss, weight), rel=1e-10)


@pytest.mark.parametrize('weight', [1.0, 0.3])
def test_origin_matches_explicit_sums_on_maps(weight):
    loss = build(reference='origin', weight=weight)
    value = loss(FS, FT10S, classifier())
    assert value.item() == pytest.approx(slow(FS, FT10S, loss, weight), rel=1e-10)


def test_references_differ_in_the_order_of_pooling_and_connector():
    pooled = FS.mean(dim=(2, 3)), FT10S.mean(dim=(2, 3))
    simkd, origin = build(), build(reference='origin')
    value = simkd(FS, FT10S, classifier())
    torch.testing.assert_close(value, simkd(*pooled, classifier()))
    assert abs(value - origin(FS, FT10S, classifier())) > 1e-2
    # Both are the same on vectors.
    torch.testing.assert_close(origin(*pooled, classifier()), value)


def test_initial_weights_of_the_origin():
    torch.manual_seed(0)
    loss = SRRLLoss(64, 256, reference='origin')
    # Kaiming with fan-out: a standard deviation of sqrt(2 / 256), over 16384 weights.
    assert loss.connector[0].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.03)


@pytest.mark.parametrize('reference', ['simkd', 'origin'])
def test_learner_and_connector_get_gradients(reference):
    loss = build(reference=reference)
    head = classifier()
    learner = FS.clone().requires_grad_()
    loss(learner, FT10S, head).backward()
    assert (learner.grad != 0).any()
    assert len(list(loss.parameters())) == 3
    assert all((parameter.grad != 0).any() for parameter in loss.parameters())
    assert all(parameter.grad is None for parameter in head.parameters())
    assert loss.needs_source_classifier
    assert not loss.requires_same_shape


@pytest.mark.parametrize('reference', ['simkd', 'origin'])
def test_gradient_of_the_learner(reference):
    loss = build(reference=reference)
    learner = gen((3, 6, 2, 1), 0.9, 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, FT10S[:3], classifier()), learner)
