import itertools
import math

import pytest
import torch

from mmkdml.functional import prediction_kl
from mmkdml.functional.divergence import DIRECTIONS, SCALES, softened_log_probabilities

SHAPES = [(1, 2), (5, 2), (4, 7), (3, 1), (2, 3, 4, 5), (2, 1, 3, 3), (1, 2, 1, 1)]


def pair(shape, seed=0, spread=3.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=rng, dtype=torch.float64).mul(spread).unbind(0)


def softmax(logits):
    """Compute the softmax of a list of floats."""
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def slow_kl(learner, source, temperature, direction, scale):
    """Sum a_k * log(a_k / b_k) position by position."""
    num_classes = learner.shape[1]
    learner = learner.movedim(1, -1).reshape(-1, num_classes).tolist()
    source = source.movedim(1, -1).reshape(-1, num_classes).tolist()
    total = 0.0
    for logits_s, logits_p in zip(learner, source, strict=True):
        if num_classes == 1:  # the background's logit is 0
            logits_s, logits_p = [0.0, *logits_s], [0.0, *logits_p]
        s = softmax([logit / temperature for logit in logits_s])
        p = softmax([logit / temperature for logit in logits_p])
        a, b = (s, p) if direction == 'learner||source' else (p, s)
        total += sum(a_k * math.log(a_k / b_k) for a_k, b_k in zip(a, b, strict=True))
    mean = total / len(learner)
    return mean * temperature * temperature if scale == 'temperature_squared' else mean


@pytest.mark.parametrize('temperature', [0.5, 1, 2.0, 7.3])
@pytest.mark.parametrize('shape', SHAPES)
def test_matches_explicit_sums(shape, temperature):
    learner, source = pair(shape)
    for options in itertools.product(DIRECTIONS, SCALES):
        value = prediction_kl(learner, source, temperature, *options)
        assert value.shape == ()
        expected = slow_kl(learner, source, temperature, *options)
        assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_defaults_follow_the_paper():
    learner, source = pair((4, 3))
    assert prediction_kl(learner, source).item() == pytest.approx(
        slow_kl(learner, source, 2.0, 'learner||source', 'none'), rel=1e-10
    )


def test_closed_form():
    # Logits (log 3, 0) have probabilities (3/4, 1/4); equal logits have (1/2, 1/2).
    uneven = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    even = torch.zeros(1, 2, dtype=torch.float64)
    printed = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert prediction_kl(uneven, even, 1.0).item() == pytest.approx(printed, rel=1e-12)
    hinton = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert prediction_kl(uneven, even, 1.0, 'source||learner').item() == pytest.approx(
        hinton, rel=1e-12
    )


@pytest.mark.parametrize('shape', [(5, 3), (2, 1, 4, 4)])
def test_directions_differ_and_swap_with_the_arguments(shape):
    a, b = pair(shape)
    printed, hinton = (prediction_kl(a, b, direction=direction) for direction in DIRECTIONS)
    assert abs(printed - hinton) > 1e-3
    torch.testing.assert_close(prediction_kl(b, a, direction='source||learner'), printed)
    torch.testing.assert_close(prediction_kl(b, a, direction='learner||source'), hinton)


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('temperature', [1, 2.0, 4])
def test_scale_is_exactly_temperature_squared(temperature, direction):
    a, b = pair((5, 3))
    plain = prediction_kl(a, b, temperature, direction)
    scaled = prediction_kl(a, b, temperature, direction, 'temperature_squared')
    assert scaled.item() == plain.item() * temperature**2  # powers of two: exact


def test_scaled_gradient_converges_for_high_temperatures():
    # Hinton et al.: for high T the gradient of T^2 * KL tends to (s - p) / K of centered logits.
    learner, source = pair((1, 4))
    learner, source = learner - learner.mean(), source - source.mean()
    learner.requires_grad_()
    prediction_kl(learner, source, 1e4, 'source||learner', 'temperature_squared').backward()
    torch.testing.assert_close(learner.grad, (learner.detach() - source) / 4, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('shape', SHAPES)
def test_zero_only_for_equal_logits(shape, direction):
    a, b = pair(shape)
    assert prediction_kl(a, a.clone(), direction=direction).item() == 0
    for step in (1e-3, 0.1, 1.0):
        assert prediction_kl(a + step * b, a, direction=direction) > 1e-9


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_invariant_to_an_offset_per_sample(direction):
    a, b = pair((4, 3))
    shift = torch.tensor([[5.0], [-40.0], [0.1], [300.0]], dtype=torch.float64)
    torch.testing.assert_close(
        prediction_kl(a + shift, b - 2 * shift, direction=direction),
        prediction_kl(a, b, direction=direction),
    )


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('shape', [(6,), (2, 3, 4)])
def test_one_logit_equals_softmax_with_zero(shape, direction):
    a, b = pair((shape[0], 1, *shape[1:]))
    two = [torch.cat([torch.zeros_like(z), z], dim=1) for z in (a, b)]
    torch.testing.assert_close(
        prediction_kl(a, b, 2.0, direction), prediction_kl(*two, 2.0, direction)
    )


def test_one_logit_gives_two_sigmoids():
    z = torch.tensor([[-1.3], [0.0], [4.0]], dtype=torch.float64)
    log_probabilities = softened_log_probabilities(z, 2.0)
    expected = [[1 / (1 + math.exp(v / 2)), 1 / (1 + math.exp(-v / 2))] for v in (-1.3, 0.0, 4.0)]
    torch.testing.assert_close(log_probabilities.exp(), torch.tensor(expected, dtype=torch.float64))


def test_invariant_to_order_of_samples_pixels_and_classes():
    a, b = pair((3, 4, 2, 5))
    expected = prediction_kl(a, b)
    samples = torch.tensor([2, 0, 1])
    torch.testing.assert_close(prediction_kl(a[samples], b[samples]), expected)
    pixels = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        prediction_kl(a.flatten(2)[..., pixels], b.flatten(2)[..., pixels]), expected
    )
    torch.testing.assert_close(prediction_kl(a.flip(1), b.flip(1)), expected)


def test_maps_are_averaged_over_pixels():
    a, b = pair((2, 3))
    wide = [z[..., None, None].expand(-1, -1, 8, 8) for z in (a, b)]
    torch.testing.assert_close(prediction_kl(*wide), prediction_kl(a, b))


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('num_classes', [1, 2, 3])
def test_extreme_logits_have_exact_divergence(num_classes, dtype, direction):
    a = torch.tensor([1e4, -1e4, 0.0])[:num_classes].to(dtype).expand(2, -1).clone()
    b = -a
    a.requires_grad_()
    b.requires_grad_()
    value = prediction_kl(a, b, 2.0, direction)
    value.backward()
    # One side is certain of a class whose log-probability on the other side is -2e4 / T, or
    # -1e4 / T with one logit.
    assert value.item() == pytest.approx(5e3 if num_classes == 1 else 1e4, rel=1e-3)
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


@pytest.mark.parametrize('shape', [(5, 1), (4, 3), (2, 3, 4, 5)])
def test_several_labels_sum_the_divergences_of_single_logits(shape):
    learner, source = pair(shape)
    for options in itertools.product([0.5, 3.0], DIRECTIONS, SCALES):
        value = prediction_kl(learner, source, *options, multi_label=True)
        classes = (
            prediction_kl(learner[:, [k]], source[:, [k]], *options) for k in range(shape[1])
        )
        torch.testing.assert_close(value, sum(classes))


def test_several_labels_equal_a_difference_of_cross_entropies():
    # The form of the released code of L2D: batch mean of the sum over classes at T = 1.
    learner, source = pair((4, 6))
    p = source.sigmoid()
    entropies = (
        torch.nn.functional.binary_cross_entropy_with_logits(z, p, reduction='sum') / 4
        for z in (learner, source)
    )
    value = prediction_kl(learner, source, 1.0, 'source||learner', multi_label=True)
    torch.testing.assert_close(value, next(entropies) - next(entropies))


def test_several_labels_have_bounded_gradients():
    learner = torch.tensor([[80.0, -80.0, 0.0]], requires_grad=True)
    source = torch.tensor([[-80.0, 80.0, 0.0]])
    value = prediction_kl(learner, source, 1.0, 'source||learner', multi_label=True)
    value.backward()
    assert value.item() == pytest.approx(160, rel=1e-6)
    torch.testing.assert_close(learner.grad, torch.tensor([[1.0, -1.0, 0.0]]))


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_masked_pixels_do_not_count(direction):
    learner, source = pair((2, 3, 4, 5))
    padded = [torch.nn.functional.pad(x, (0, 3, 0, 4), value=9.0) for x in (learner, source)]
    padded[0][:, 0, 4:] = -7  # padding in which the two sides differ
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, :4, :5] = True
    expected = slow_kl(learner, source, 2.0, direction, 'none')
    assert prediction_kl(*padded, direction=direction, mask=mask).item() == pytest.approx(expected)
    assert prediction_kl(*padded, direction=direction).item() != pytest.approx(expected)


def test_mask_of_samples_and_gradients():
    learner, source = pair((4, 3))
    mask = torch.tensor([True, False, True, False])
    learner.requires_grad_()
    loss = prediction_kl(learner, source, mask=mask)
    torch.testing.assert_close(loss, prediction_kl(learner[mask], source[mask]))
    loss.backward()
    assert (learner.grad[~mask] == 0).all()
    assert (learner.grad[mask] != 0).all()


def test_everything_masked_is_zero_with_a_gradient():
    learner, source = pair((2, 3, 4, 4))
    learner.requires_grad_()
    loss = prediction_kl(learner, source, mask=torch.zeros(2, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert (learner.grad == 0).all()
