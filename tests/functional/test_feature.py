import itertools

import pytest
import torch

from mmkdml.functional import feature_mse


def pair(shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=rng, dtype=torch.float64).unbind(0)


@pytest.mark.parametrize('shape', [(1, 1), (3, 5), (2, 3, 4, 5), (2, 3, 1, 1)])
def test_matches_explicit_sums(shape):
    a, b = pair(shape)
    squares = [
        (a[index].item() - b[index].item()) ** 2 for index in itertools.product(*map(range, shape))
    ]
    value = feature_mse(a, b)
    assert value.shape == ()
    assert value.item() == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_closed_form():
    a = torch.full((2, 3, 4, 4), 1.5)
    assert feature_mse(a, torch.full_like(a, -0.5)).item() == 4
    one_off = a.clone()
    one_off[1, 2, 3, 0] += 2
    assert feature_mse(one_off, a).item() == pytest.approx(4 / 96)


def test_symmetric_translation_invariant_and_zero_only_for_equal_maps():
    a, b = pair((2, 3, 4, 4))
    value = feature_mse(a, b)
    torch.testing.assert_close(feature_mse(b, a), value)
    torch.testing.assert_close(feature_mse(a + 7, b + 7), value)
    torch.testing.assert_close(feature_mse(3 * a, 3 * b), 9 * value)
    assert feature_mse(a, a.clone()) == 0
    assert feature_mse(a, a + 1e-6) > 0


def test_invariant_to_order_of_samples_channels_and_pixels():
    a, b = pair((3, 4, 2, 5))
    for dims in ((0,), (1,), (2, 3)):
        torch.testing.assert_close(feature_mse(a.flip(dims), b.flip(dims)), feature_mse(a, b))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_squares_beyond_float16(dtype):
    large = torch.full((2, 2), 1e3, dtype=dtype)
    assert feature_mse(large, torch.zeros_like(large)).item() == pytest.approx(1e6, rel=1e-2)
