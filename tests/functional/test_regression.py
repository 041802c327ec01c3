import pytest
import torch
from torch import nn

from mmkdml.functional import softmax_regression
from mmkdml.functional.regression import channel_means


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classifier(seed=3):
    torch.manual_seed(seed)
    return nn.Linear(4, 3, dtype=torch.float64).requires_grad_(False)


def slow(learner, source, weights, bias, weight):
    def means(features):
        return [[channel.mean().item() for channel in sample] for sample in features]

    def logits(rows):
        return [
            [sum(w * x for w, x in zip(line, row, strict=True)) + b for line, b in weights_and_bias]
            for row in rows
        ]

    def distance(a, b):
        squares = [
            (x - y) ** 2 for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
        ]
        return sum(squares) / len(squares)

    weights_and_bias = list(zip(weights.tolist(), bias.tolist(), strict=True))
    own, other = means(learner), means(source)
    return distance(own, other) + weight * distance(logits(own), logits(other))


@pytest.mark.parametrize('weight', [0, 1, 2.5])
@pytest.mark.parametrize(
    'shapes', [((3, 4), (3, 4)), ((3, 4, 2, 2), (3, 4, 2, 2)), ((3, 4, 2, 3), (3, 4, 5, 5))]
)
def test_matches_explicit_sums(shapes, weight):
    learner, source = drawn(*shapes[0]), drawn(*shapes[1], seed=1)
    head = classifier()
    value = softmax_regression(learner, source, head, weight)
    assert value.shape == ()
    assert value.item() == pytest.approx(
        slow(learner, source, head.weight, head.bias, weight), rel=1e-10
    )


def test_closed_form():
    # Features differ by 2 and, because the classifier triples them, logits by 6.
    a = torch.full((2, 5), 1.0)
    assert softmax_regression(a, a - 2, lambda x: 3 * x).item() == 4 + 36
    assert softmax_regression(a, a.clone(), lambda x: 3 * x) == 0


def test_channel_means():
    features = drawn(2, 3, 4, 5)
    torch.testing.assert_close(channel_means(features), features.mean(dim=(2, 3)))
    vectors = drawn(2, 3)
    assert channel_means(vectors) is vectors


def test_gradients_reach_the_learner_through_the_classifier():
    head = classifier()
    sides = drawn(2, 4, 2, 2).requires_grad_(), drawn(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: softmax_regression(a, b, head), sides)
    grads = [
        torch.autograd.grad(softmax_regression(*sides, head, weight), sides[0])[0]
        for weight in (0.0, 1.0)
    ]
    assert (grads[0] - grads[1]).abs().max() > 1e-3
    assert head.weight.grad is None
