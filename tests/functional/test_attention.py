import math

import pytest
import torch

from mmkdml.functional import attention_difference, attention_map
from mmkdml.functional.attention import ATTENTION_REFERENCES


def maps(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_map(image, exponent):
    """Compute the attention of (C, H, W) as H * W floats."""
    channels, height, width = image.shape
    values = [
        sum(abs(image[c, y, x].item()) ** exponent for c in range(channels)) / channels
        for y in range(height)
        for x in range(width)
    ]
    length = math.sqrt(sum(value**2 for value in values))
    return [value / length for value in values]


def slow_difference(learner, source, exponent, reference):
    total = 0.0
    for own, other in zip(learner, source, strict=True):
        pairs = zip(slow_map(own, exponent), slow_map(other, exponent), strict=True)
        squares = [(a - b) ** 2 for a, b in pairs]
        total += sum(squares) / len(squares) if reference == 'simkd' else math.sqrt(sum(squares))
    return total / len(learner)


@pytest.mark.parametrize('exponent', [1, 2, 3.5, 4])
def test_map_matches_explicit_sums(exponent):
    features = maps(3, 4, 5, 2)
    expected = torch.tensor([slow_map(image, exponent) for image in features]).view(3, 5, 2)
    torch.testing.assert_close(
        attention_map(features, exponent), expected.double(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize('reference', ATTENTION_REFERENCES)
@pytest.mark.parametrize('exponent', [1, 2, 4])
@pytest.mark.parametrize('channels', [1, 3])
def test_difference_matches_explicit_sums(channels, exponent, reference):
    learner, source = maps(3, 2, 4, 5), maps(3, channels, 4, 5, seed=1)
    value = attention_difference(learner, source, exponent, reference)
    assert value.shape == ()
    assert value.item() == pytest.approx(
        slow_difference(learner, source, exponent, reference), rel=1e-10
    )


def test_closed_forms():
    # Attention on two different pixels: orthogonal unit vectors.
    here, there = torch.zeros(2, 1, 3, 2, 2).unbind()
    here[..., 0, 0], there[..., 1, 1] = 5, -0.1
    assert attention_difference(here, there).item() == pytest.approx(2 / 4)
    assert attention_difference(here, there, reference='paper').item() == pytest.approx(
        math.sqrt(2)
    )
    # A constant 3x4 map.
    even = attention_map(torch.full((1, 2, 3, 4), -7.0))
    torch.testing.assert_close(even, torch.full((1, 3, 4), 1 / math.sqrt(12)))
    assert torch.equal(attention_map(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 3, 3))


def test_larger_map_is_pooled_before_squaring():
    large, small = maps(2, 3, 4, 6), maps(2, 5, 2, 3, seed=1)
    pooled = large.view(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    expected = slow_difference(pooled, small, 2, 'simkd')
    assert attention_difference(large, small).item() == pytest.approx(expected, rel=1e-10)
    assert attention_difference(small, large).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('reference', ATTENTION_REFERENCES)
@pytest.mark.parametrize('exponent', [1, 2, 4])
def test_invariances(exponent, reference):
    learner, source = maps(3, 4, 3, 3), maps(3, 4, 3, 3, seed=1)

    def difference(a, b):
        return attention_difference(a, b, exponent, reference)

    value = difference(learner, source)
    assert value > 1e-3
    assert difference(learner, learner.clone()) == 0
    torch.testing.assert_close(difference(source, learner), value)
    torch.testing.assert_close(difference(-1e-3 * learner, 1e3 * source), value)
    torch.testing.assert_close(difference(learner.flip(1), source), value)
    for dims in ((0,), (2, 3)):
        torch.testing.assert_close(difference(learner.flip(dims), source.flip(dims)), value)


@pytest.mark.parametrize('number', [1e-5, 1.0, 1e10])
def test_map_is_scale_invariant_even_if_powers_overflow(number):
    features = maps(2, 3, 4, 4).float()
    scaled = (features * number).requires_grad_()
    attention = attention_map(scaled, 4)
    torch.testing.assert_close(attention, attention_map(features, 4))
    attention[0, 0, 0].backward()
    assert scaled.grad.isfinite().all()
