import math

import pytest
import torch

from mmkdml.functional import attention_difference, attention_map
from mmkdml.functional.attention import ATTENTION_REFERENCES


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT = gen((4, 6, 8, 8), 0.017, 0.9, 1, 0.3)


def maps(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_map(image, exponent):
    """(C, H, W) -> the H * W values of its attention."""
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
def test_the_map_equals_the_sum_written_out(exponent):
    features = maps(3, 4, 5, 2)
    expected = torch.tensor([slow_map(image, exponent) for image in features]).view(3, 5, 2)
    torch.testing.assert_close(
        attention_map(features, exponent), expected.double(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize('reference', ATTENTION_REFERENCES)
@pytest.mark.parametrize('exponent', [1, 2, 4])
@pytest.mark.parametrize('channels', [1, 3])
def test_the_difference_equals_the_sum_written_out(channels, exponent, reference):
    learner, source = maps(3, 2, 4, 5), maps(3, channels, 4, 5, seed=1)
    value = attention_difference(learner, source, exponent, reference)
    assert value.shape == ()
    assert value.item() == pytest.approx(
        slow_difference(learner, source, exponent, reference), rel=1e-10
    )


def test_values_of_the_reference_implementation():
    learner = FS.clone().requires_grad_()
    value = attention_difference(learner, FT)
    value.backward()
    assert value.item() == pytest.approx(7.64744552856658e-05, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.0002204631943269485, rel=1e-9)


def test_closed_forms():
    # One pixel is looked at, or another: unit vectors at a right angle.
    here, there = torch.zeros(2, 1, 3, 2, 2).unbind()
    here[..., 0, 0], there[..., 1, 1] = 5, -0.1
    assert attention_difference(here, there).item() == pytest.approx(2 / 4)
    assert attention_difference(here, there, reference='paper').item() == pytest.approx(
        math.sqrt(2)
    )
    # A map of 3 by 4 with the same energy everywhere.
    even = attention_map(torch.full((1, 2, 3, 4), -7.0))
    torch.testing.assert_close(even, torch.full((1, 3, 4), 1 / math.sqrt(12)))


def test_the_larger_map_is_averaged_before_it_is_squared():
    large, small = maps(2, 3, 4, 6), maps(2, 5, 2, 3, seed=1)
    pooled = large.view(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    expected = slow_difference(pooled, small, 2, 'simkd')
    assert attention_difference(large, small).item() == pytest.approx(expected, rel=1e-10)
    assert attention_difference(small, large).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('reference', ATTENTION_REFERENCES)
@pytest.mark.parametrize('exponent', [1, 2, 4])
def test_identities(exponent, reference):
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


@pytest.mark.parametrize('reference', ATTENTION_REFERENCES)
@pytest.mark.parametrize('exponent', [1.5, 2, 4])
def test_gradients_of_both_sides(exponent, reference):
    sides = maps(2, 2, 3, 3).requires_grad_(), maps(2, 3, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: attention_difference(a, b, exponent, reference), sides
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b = maps(2, 3, 4, 4).to(dtype), maps(2, 3, 4, 4, seed=1).to(dtype)
    assert attention_map(a).dtype == torch.float32
    assert torch.equal(attention_difference(a, b), attention_difference(a.float(), b.float()))


@pytest.mark.parametrize('reference', ATTENTION_REFERENCES)
@pytest.mark.parametrize('exponent', [1, 2, 4])
@pytest.mark.parametrize('number', [0, 1e-30, 1e-9, 1e-5, 1, 1e4, 1e10])
def test_extreme_maps_stay_finite(number, exponent, reference):
    even = torch.full((2, 3, 4, 4), float(number))
    one_pixel = torch.zeros_like(even)
    one_pixel[..., 1, 2] = number
    for map_ in (even, one_pixel, maps(2, 3, 4, 4).float() * number):
        for other in (maps(2, 3, 4, 4, seed=1).float(), torch.zeros_like(even), map_):
            learner = map_.clone().requires_grad_()
            value = attention_difference(learner, other, exponent, reference)
            value.backward()
            assert value.isfinite()
            assert learner.grad.isfinite().all()


@pytest.mark.parametrize('number', [1e-5, 1.0, 1e10])
def test_the_scale_does_not_matter_even_where_its_power_overflows(number):
    features = maps(2, 3, 4, 4).float()
    torch.testing.assert_close(attention_map(features * number, 4), attention_map(features, 4))


def test_nothing_looks_nowhere():
    assert torch.equal(attention_map(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 3, 3))


def test_inputs_are_not_changed():
    sides = maps(2, 3, 4, 4), maps(2, 3, 2, 2, seed=1)
    before = [side.clone() for side in sides]
    attention_difference(*sides)
    assert all(map(torch.equal, sides, before))


def test_bad_input():
    with pytest.raises(ValueError, match=r'needs feature maps \(N, C, H, W\), got \(2, 3\)'):
        attention_map(torch.zeros(2, 3))
    for exponent in (0.5, 0, math.nan):
        with pytest.raises(ValueError, match=f'exponent must be at least 1, got {exponent}'):
            attention_map(torch.zeros(1, 1, 2, 2), exponent)
    with pytest.raises(ValueError, match="reference must be one of simkd, paper; got 'code'"):
        attention_difference(FS, FT, reference='code')
    with pytest.raises(
        ValueError, match=r"learner's \(4, 6, 8, 8\) and the source's \(3, 6, 8, 8\)"
    ):
        attention_difference(FS, FT[:3])
