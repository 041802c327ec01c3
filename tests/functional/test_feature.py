import itertools

import pytest
import torch

from mmkdml.functional import feature_mse


def pair(shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=rng, dtype=torch.float64).unbind(0)


@pytest.mark.parametrize('shape', [(1, 1), (3, 5), (2, 3, 4, 5), (2, 3, 1, 1)])
def test_equals_the_sum_written_out(shape):
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


def test_symmetric_translation_invariant_and_zero_only_where_equal():
    a, b = pair((2, 3, 4, 4))
    value = feature_mse(a, b)
    torch.testing.assert_close(feature_mse(b, a), value)
    torch.testing.assert_close(feature_mse(a + 7, b + 7), value)
    torch.testing.assert_close(feature_mse(3 * a, 3 * b), 9 * value)
    assert feature_mse(a, a.clone()) == 0
    assert feature_mse(a, a + 1e-6) > 0


def test_order_of_samples_channels_and_pixels_does_not_matter():
    a, b = pair((3, 4, 2, 5))
    for dims in ((0,), (1,), (2, 3)):
        torch.testing.assert_close(feature_mse(a.flip(dims), b.flip(dims)), feature_mse(a, b))


def test_gradients_of_both_sides():
    a, b = (z.clone().requires_grad_() for z in pair((2, 2, 2, 2)))
    assert torch.autograd.gradcheck(feature_mse, (a, b))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b = (z.to(dtype) for z in pair((2, 3, 4, 4)))
    value = feature_mse(a, b)
    assert value.dtype == torch.float32
    assert torch.equal(value, feature_mse(a.float(), b.float()))
    # 1e3 squared is beyond float16.
    large = torch.full((2, 2), 1e3, dtype=dtype)
    assert feature_mse(large, torch.zeros_like(large)).item() == pytest.approx(1e6, rel=1e-2)


def test_extreme_maps_stay_finite():
    a = torch.full((1, 2, 2, 2), 1e4, requires_grad=True)
    value = feature_mse(a, -a.detach())
    value.backward()
    assert value.item() == pytest.approx(4e8)
    assert a.grad.isfinite().all()


def test_inputs_are_not_changed():
    a, b = pair((2, 3))
    before = a.clone(), b.clone()
    feature_mse(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize('other', [(2, 1, 4, 4), (1, 3, 4, 4), (2, 3, 2, 2), (3, 4, 4)])
def test_shapes_that_would_broadcast_are_refused(other):
    with pytest.raises(
        ValueError,
        match=r"mean squared error.*learner's \(2, 3, 4, 4\).*"
        r"source's \(" + ', '.join(map(str, other)),
    ):
        feature_mse(torch.zeros(2, 3, 4, 4), torch.zeros(other))
