import math

import pytest
import torch

from mmkdml.functional import category_similarity, channel_wise_kl

BOTH = [channel_wise_kl, category_similarity]


def maps(*shape, seed=0, spread=3.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64) * spread


def two_logits(logits):
    return torch.cat([-logits / 2, logits / 2], dim=1) if logits.shape[1] == 1 else logits


def shares(values, temperature):
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def slow_channel_wise(learner, source, temperature):
    learner, source = two_logits(learner), two_logits(source)
    total = 0.0
    for image_s, image_t in zip(learner, source, strict=True):
        for s, t in zip(image_s, image_t, strict=True):
            s, t = (shares(channel.flatten().tolist(), temperature) for channel in (s, t))
            total += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
    return temperature**2 * total / (learner.shape[0] * learner.shape[1])


def slow_overlaps(image, temperature):
    """Compute the overlaps of one image (K, H, W) as K * K floats."""
    distributions = []
    for channel in image:
        height, width = channel.shape
        pooled = []
        for y in range(0, height, 2):
            for x in range(0, width, 2):
                window = [
                    channel[row, column].item()
                    for row in range(y, min(y + 2, height))
                    for column in range(x, min(x + 2, width))
                ]
                pooled.append(sum(window) / len(window))
        distributions.append(shares(pooled, temperature))
    return [
        sum(p * q for p, q in zip(a, b, strict=True)) for a in distributions for b in distributions
    ]


def slow_category(learner, source, temperature):
    squares = []
    for image_s, image_t in zip(two_logits(learner), two_logits(source), strict=True):
        pairs = zip(
            slow_overlaps(image_s, temperature), slow_overlaps(image_t, temperature), strict=True
        )
        squares += [(s - t) ** 2 for s, t in pairs]
    return sum(squares) / len(squares)


@pytest.mark.parametrize('temperature', [0.5, 1, 4.0])
@pytest.mark.parametrize('shape', [(2, 1, 3, 4), (2, 2, 4, 4), (1, 3, 5, 3), (2, 3, 1, 1)])
@pytest.mark.parametrize(
    ('function', 'slow'),
    [(channel_wise_kl, slow_channel_wise), (category_similarity, slow_category)],
)
def test_matches_explicit_sums(function, slow, shape, temperature):
    learner, source = maps(*shape), maps(*shape, seed=1)
    value = function(learner, source, temperature)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(learner, source, temperature), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ('function', 'slow'),
    [(channel_wise_kl, slow_channel_wise), (category_similarity, slow_category)],
)
def test_default_temperature_is_4(function, slow):
    learner, source = maps(1, 2, 3, 3), maps(1, 2, 3, 3, seed=1)
    assert function(learner, source).item() == pytest.approx(slow(learner, source, 4), rel=1e-9)


def test_divisor_replaces_the_number_of_channels():
    sides = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    value = channel_wise_kl(*sides)
    torch.testing.assert_close(channel_wise_kl(*sides, divisor=3), value)
    torch.testing.assert_close(channel_wise_kl(*sides, divisor=1), 3 * value)
    torch.testing.assert_close(channel_wise_kl(*sides, divisor=12), value / 4)


def test_channel_wise_closed_form():
    # The source has shares 3/4 and 1/4, the learner 1/2 and 1/2.
    source = 4 * torch.tensor([[[[math.log(3), 0.0]], [[0.0, 0.0]]]])
    expected = 16 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert channel_wise_kl(torch.zeros(1, 2, 1, 2), source).item() == pytest.approx(expected)


def test_category_closed_form():
    # All classes at one of six positions, compared with uniform classes.
    learner = torch.full((1, 3, 4, 6), -1e6)
    learner[..., :2, :2] = 1e6
    value = category_similarity(learner, torch.zeros(1, 3, 4, 6))
    assert value.item() == pytest.approx((1 - 1 / 6) ** 2)


@pytest.mark.parametrize('function', BOTH)
@pytest.mark.parametrize('num_channels', [1, 3])
def test_invariances(function, num_channels):
    shape = (2, num_channels, 4, 6)
    learner, source = maps(*shape), maps(*shape, seed=1)
    value = function(learner, source)
    assert value > 0
    assert function(learner, learner.clone()) == 0
    # Invariant to an offset per channel and to the order of images, classes and positions.
    torch.testing.assert_close(function(learner + maps(2, num_channels, 1, 1), source), value)
    torch.testing.assert_close(function(learner.flip(0, 1), source.flip(0, 1)), value)
    torch.testing.assert_close(function(learner.flip(2, 3), source.flip(2, 3)), value)
    # Only the channel-wise divergence depends on where the two sides overlap.
    mirrored = function(learner.flip(3), source)
    assert mirrored.isclose(value) == (function is category_similarity)


def test_one_logit_equals_two_symmetric_logits():
    learner, source = maps(2, 1, 4, 6), maps(2, 1, 4, 6, seed=1)
    for function in BOTH:
        torch.testing.assert_close(
            function(learner, source), function(two_logits(learner), two_logits(source))
        )
        # Foreground and background are interchangeable.
        torch.testing.assert_close(function(-learner, -source), function(learner, source))


@pytest.mark.parametrize('channels', [1, 3])
def test_masked_positions_are_not_part_of_the_distributions(channels):
    learner, source = maps(2, channels, 4, 5), maps(2, channels, 4, 5, seed=1)
    padded = [torch.nn.functional.pad(x, (0, 3, 0, 4), value=9.0) for x in (learner, source)]
    padded[0][..., 6:] = -20
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, :4, :5] = True
    expected = slow_channel_wise(learner, source, 2.0)
    assert channel_wise_kl(*padded, 2.0, mask=mask).item() == pytest.approx(expected)
    assert channel_wise_kl(*padded, 2.0).item() != pytest.approx(expected)
    with_divisor = channel_wise_kl(*padded, 2.0, divisor=8, mask=mask).item()
    assert with_divisor == pytest.approx(expected * channels / 8)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_images_without_a_position_do_not_count(dtype):
    learner, source = (maps(3, 2, 4, 4, seed=i).to(dtype) for i in (0, 1))
    learner.requires_grad_()
    mask = torch.ones(3, 4, 4, dtype=torch.bool)
    mask[1] = False
    loss = channel_wise_kl(learner, source, mask=mask)
    torch.testing.assert_close(loss, channel_wise_kl(learner[::2], source[::2]))
    loss.backward()
    assert learner.grad.isfinite().all()
    assert (learner.grad[1] == 0).all()
    assert channel_wise_kl(learner, source, mask=torch.zeros_like(mask)).item() == 0
