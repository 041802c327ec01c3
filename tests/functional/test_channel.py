import math

import pytest
import torch

from mmkdml.functional import category_similarity, channel_wise_kl

BOTH = [channel_wise_kl, category_similarity]


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(a * index + b) * scale + shift).view(shape)


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
    """Of one image's (K, H, W) -> K * K floats."""
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
def test_equals_the_sums_written_out(function, slow, shape, temperature):
    learner, source = maps(*shape), maps(*shape, seed=1)
    value = function(learner, source, temperature)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(learner, source, temperature), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ('function', 'slow'),
    [(channel_wise_kl, slow_channel_wise), (category_similarity, slow_category)],
)
def test_the_temperature_is_4(function, slow):
    learner, source = maps(1, 2, 3, 3), maps(1, 2, 3, 3, seed=1)
    assert function(learner, source).item() == pytest.approx(slow(learner, source, 4), rel=1e-9)


def test_channel_wise_has_the_reference_implementations_value():
    learner = gen((2, 3, 6, 8), 0.21, 0.4, 3).requires_grad_()
    value = channel_wise_kl(learner, gen((2, 3, 6, 8), 0.33, 0.8, 3))
    value.backward()
    assert value.item() == pytest.approx(4.1271356575361535, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.16632402980422945, rel=1e-9)


def test_channel_wise_closed_form():
    # Shares of 3/4 and 1/4 in the source, halves in the learner.
    source = 4 * torch.tensor([[[[math.log(3), 0.0]], [[0.0, 0.0]]]])
    expected = 16 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert channel_wise_kl(torch.zeros(1, 2, 1, 2), source).item() == pytest.approx(expected)


def test_category_closed_form():
    # All classes at one of six positions, against all classes everywhere.
    learner = torch.full((1, 3, 4, 6), -1e6)
    learner[..., :2, :2] = 1e6
    value = category_similarity(learner, torch.zeros(1, 3, 4, 6))
    assert value.item() == pytest.approx((1 - 1 / 6) ** 2)


@pytest.mark.parametrize('function', BOTH)
@pytest.mark.parametrize('num_channels', [1, 3])
def test_identities(function, num_channels):
    shape = (2, num_channels, 4, 6)
    learner, source = maps(*shape), maps(*shape, seed=1)
    value = function(learner, source)
    assert value > 0
    assert function(learner, learner.clone()) == 0
    # What is added to a whole channel, and the order of images and classes, do not matter; nor
    # that of the positions, taken in blocks.
    torch.testing.assert_close(function(learner + maps(2, num_channels, 1, 1), source), value)
    torch.testing.assert_close(function(learner.flip(0, 1), source.flip(0, 1)), value)
    torch.testing.assert_close(function(learner.flip(2, 3), source.flip(2, 3)), value)
    # Overlaps do not tell where they are, channel-wise divergences do.
    mirrored = function(learner.flip(3), source)
    assert mirrored.isclose(value) == (function is category_similarity)


def test_both_logits_of_a_binary_task_say_where():
    learner, source = maps(2, 1, 4, 6), maps(2, 1, 4, 6, seed=1)
    for function in BOTH:
        torch.testing.assert_close(
            function(learner, source), function(two_logits(learner), two_logits(source))
        )
        # Foreground and background can change their roles.
        torch.testing.assert_close(function(-learner, -source), function(learner, source))


@pytest.mark.parametrize('function', BOTH)
@pytest.mark.parametrize('num_channels', [1, 2])
def test_gradient(function, num_channels):
    source = maps(2, num_channels, 3, 4, seed=1)
    learner = maps(2, num_channels, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: function(s, source), (learner,))
    function(learner, source).backward()
    assert (learner.grad != 0).all()


@pytest.mark.parametrize('function', BOTH)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('temperature', [0.1, 4])
@pytest.mark.parametrize('kind', ['constant', 'huge', 'one pixel'])
def test_hard_maps_stay_finite(kind, temperature, dtype, function):
    learner = torch.full((2, 3, 4, 6), 0.5)
    if kind == 'huge':
        learner = 1e4 * maps(2, 3, 4, 6).sign().float()
    elif kind == 'one pixel':
        learner[:, :, 1, 2] = 1e4
    learner = learner.to(dtype).requires_grad_()
    value = function(learner, -learner.detach(), temperature)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert learner.grad.isfinite().all()


@pytest.mark.parametrize('function', BOTH)
def test_half_precision_is_computed_in_float32_and_inputs_are_not_changed(function):
    sides = [maps(2, 3, 4, 6, seed=seed).bfloat16() for seed in range(2)]
    before = [side.clone() for side in sides]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = function(*sides)
    torch.testing.assert_close(value, function(*(side.float() for side in sides)))
    assert all(map(torch.equal, sides, before))


@pytest.mark.parametrize('function', BOTH)
def test_bad_input(function):
    with pytest.raises(ValueError, match=r"learner's \(1, 2, 4, 4\) and the source's \(1, 3, 4, 4"):
        function(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r'needs maps \(N, C, H, W\), got \(4, 2\)'):
        function(torch.zeros(4, 2), torch.zeros(4, 2))
    for temperature in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f'temperature must be a positive.*got {temperature}'):
            function(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), temperature)
