import math

import pytest
import torch

from mmkdml.functional import pair_wise_difference, pixel_wise_divergence, prediction_kl
from mmkdml.functional.structure import PAIR_WISE_REFERENCES, PIXEL_WISE_REFERENCES


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(a * index + b) * scale + shift).view(shape)


def maps(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def slow_pixel_wise(learner, source, reference):
    num, num_logits, height, width = learner.shape
    cross_entropy = divergence = 0.0
    for n in range(num):
        for y in range(height):
            for x in range(width):
                shares = []
                for side in (learner, source):
                    z = side[n, :, y, x].tolist()
                    powers = [math.exp(v) for v in ([0.0, *z] if num_logits == 1 else z)]
                    shares.append([power / sum(powers) for power in powers])
                for s, p in zip(*shares, strict=True):
                    cross_entropy -= p * math.log(s)
                    divergence += p * math.log(p / s)
    if reference == 'skd':
        return cross_entropy / (height * width)
    pixels = num * height * width
    return divergence / (pixels * max(num_logits, 2) if reference == 'ifvd' else pixels)


@pytest.mark.parametrize('reference', PIXEL_WISE_REFERENCES)
@pytest.mark.parametrize('num_logits', [1, 2, 4])
def test_pixel_wise_equals_the_sum_written_out(num_logits, reference):
    learner, source = maps(2, num_logits, 3, 4), maps(2, num_logits, 3, 4, seed=1)
    value = pixel_wise_divergence(learner, source, reference)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow_pixel_wise(learner, source, reference), rel=1e-10)


def test_pixel_wise_closed_forms():
    uniform = torch.zeros(5, 4, 2, 3)
    assert pixel_wise_divergence(uniform, uniform).item() == 0
    # A sum over the images, of the entropy.
    value = pixel_wise_divergence(uniform, uniform, 'skd').item()
    assert value == pytest.approx(5 * math.log(4))


def test_pixel_wise_references_have_gradients_that_differ_by_a_factor():
    gradients = {}
    for reference in PIXEL_WISE_REFERENCES:
        learner = maps(2, 3, 4, 5).requires_grad_()
        pixel_wise_divergence(learner, maps(2, 3, 4, 5, seed=1), reference).backward()
        gradients[reference] = learner.grad
    torch.testing.assert_close(gradients['skd'], 2 * gradients['cirkd'])  # N
    torch.testing.assert_close(gradients['ifvd'], gradients['cirkd'] / 3)  # K


def test_pixel_wise_default_is_cirkd():
    learner, source = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    expected = prediction_kl(learner, source, 1.0, 'source||learner')
    assert torch.equal(pixel_wise_divergence(learner, source), expected)


def slow_cosines(features, size):
    """One image's, (C, H, W); the last regions may be cut off by the border."""
    channels, height, width = features.shape
    regions = []
    for top in range(0, height, size[0]):
        for left in range(0, width, size[1]):
            rows = range(top, min(top + size[0], height))
            columns = range(left, min(left + size[1], width))
            regions.append(
                [
                    max(features[c, y, x].item() for y in rows for x in columns)
                    for c in range(channels)
                ]
            )
    norms = [math.sqrt(sum(v * v for v in region)) for region in regions]
    return [
        sum(u * v for u, v in zip(a, b, strict=True)) / (norm_a * norm_b)
        for a, norm_a in zip(regions, norms, strict=True)
        for b, norm_b in zip(regions, norms, strict=True)
    ]


def slow_pair_wise(learner, source, size):
    squares = [
        (a - b) ** 2
        for image_s, image_t in zip(learner, source, strict=True)
        for a, b in zip(slow_cosines(image_s, size), slow_cosines(image_t, size), strict=True)
    ]
    return sum(squares) / len(squares)


@pytest.mark.parametrize('shape', [(4, 6), (5, 7), (2, 2), (3, 1)])
def test_pair_wise_equals_the_sum_written_out(shape):
    learner, source = maps(2, 3, *shape), maps(2, 5, *shape, seed=1)
    value = pair_wise_difference(learner, source)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow_pair_wise(learner, source, (2, 2)), rel=1e-10)


@pytest.mark.parametrize(
    ('scale', 'shape', 'size'),
    [(0.5, (4, 6), (2, 3)), (0.5, (5, 7), (2, 3)), (0.3, (8, 10), (2, 3)), (0.5, (1, 1), (1, 1))],
)
def test_pair_wise_of_skd_equals_the_sum_written_out(scale, shape, size):
    learner, source = maps(2, 3, *shape), maps(2, 5, *shape, seed=1)
    value = pair_wise_difference(learner, source, 'skd', scale)
    assert value.dtype == torch.float32
    expected = slow_pair_wise(learner, source, size)
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_pair_wise_of_skd_has_the_reference_implementations_value():
    learner = gen((2, 6, 6, 8), 0.05, 0.2, 1, 0.3).requires_grad_()
    value = pair_wise_difference(learner, gen((2, 6, 6, 8), 0.07, 0.9, 1, 0.3), 'skd')
    value.backward()
    # That is float32's, too: a processor that adds up otherwise may change the last digit.
    assert value.item() == pytest.approx(0.051836781203746796, abs=1e-8)
    assert learner.grad.norm().item() == pytest.approx(0.10005657987055719, abs=1e-7)


def test_pair_wise_closed_form():
    # Two regions: at right angles in the source, alike in the learner.
    source, learner = torch.zeros(1, 2, 2, 4), torch.ones(1, 1, 2, 4)
    source[:, 0, :, :2] = 3
    source[:, 1, :, 2:] = 5
    assert pair_wise_difference(learner, source).item() == pytest.approx(0.5)
    assert pair_wise_difference(-learner, source).item() == pytest.approx(0.5)
    assert pair_wise_difference(7 * source, source).item() == pytest.approx(0, abs=1e-12)


def test_pair_wise_references_agree_in_value_but_not_in_gradient_on_equal_regions():
    values, gradients = [], []
    for reference in PAIR_WISE_REFERENCES:
        learner = maps(2, 3, 4, 4).requires_grad_()
        value = pair_wise_difference(learner, maps(2, 5, 4, 4, seed=1), reference)
        value.backward()
        values.append(value.item())
        gradients.append(learner.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()
    # Where the length is no constant, no gradient goes along the vector of a region of one pixel.
    learner = maps(1, 3, 2, 2).requires_grad_()
    pair_wise_difference(learner, maps(1, 5, 2, 2, seed=1)).backward()
    assert (learner.grad * learner).sum().item() == pytest.approx(0, abs=1e-12)


def test_gradients():
    learner, source = maps(2, 3, 4, 5).requires_grad_(), maps(2, 3, 4, 5, seed=1)
    for reference in PIXEL_WISE_REFERENCES:
        assert torch.autograd.gradcheck(
            lambda s, r=reference: pixel_wise_divergence(s, source, r), (learner,)
        )
    assert torch.autograd.gradcheck(lambda s: pair_wise_difference(s, source), (learner,))


HARD = {
    'zeros': lambda shape: torch.zeros(shape),
    'constant': lambda shape: torch.full(shape, 0.5),
    'huge': lambda shape: 1e4 * maps(*shape).sign().float(),
    'half empty': lambda shape: maps(*shape).float().relu() * (torch.arange(shape[-1]) > 1),
}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kind', HARD)
@pytest.mark.parametrize('num_logits', [1, 3])
def test_hard_maps_stay_finite(num_logits, kind, dtype):
    source = maps(2, num_logits, 4, 6, seed=1).to(dtype)
    for function, references in (
        (pixel_wise_divergence, PIXEL_WISE_REFERENCES),
        (pair_wise_difference, PAIR_WISE_REFERENCES),
    ):
        for reference in references:
            learner = HARD[kind](source.shape).to(dtype).requires_grad_()
            value = function(learner, source, reference)
            value.backward()
            assert value.dtype == torch.float32
            assert value.isfinite()
            assert learner.grad.isfinite().all()
            assert learner.grad.abs().max() < 100


@pytest.mark.parametrize('function', [pixel_wise_divergence, pair_wise_difference])
def test_half_precision_is_computed_in_float32_and_inputs_are_not_changed(function):
    sides = [maps(2, 3, 4, 6, seed=seed).bfloat16() for seed in range(2)]
    before = [side.clone() for side in sides]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = function(*sides)
    torch.testing.assert_close(value, function(*(side.float() for side in sides)))
    assert all(map(torch.equal, sides, before))


@pytest.mark.parametrize(
    ('function', 'allowed'),
    [(pixel_wise_divergence, 'cirkd, skd, ifvd'), (pair_wise_difference, 'cirkd, skd')],
)
def test_references_are_checked(function, allowed):
    with pytest.raises(ValueError, match=f"reference must be one of {allowed}; got 'paper'"):
        function(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), 'paper')


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"pixel-wise.*learner's \(1, 2, 4, 4\).*\(1, 3, 4, 4\)"):
        pixel_wise_divergence(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r'logits \(N, K, H, W\), got \(4, 2\)'):
        pixel_wise_divergence(torch.zeros(4, 2), torch.zeros(4, 2))
    for shape in [(2, 2, 4, 4), (1, 2, 4, 5), (1, 2, 2, 4), (1, 2)]:
        with pytest.raises(
            ValueError, match=r"same N, H and W.*learner's \(1, 2, 4, 4\) and the source's \("
        ):
            pair_wise_difference(torch.zeros(1, 2, 4, 4), torch.zeros(shape))
    with pytest.raises(ValueError, match=r"learner's \(1, 2\) and the source's \(1, 2\)"):
        pair_wise_difference(torch.zeros(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize('scale', [0, -0.5, 1.1, math.nan])
def test_the_scale_is_checked(scale):
    with pytest.raises(ValueError, match=rf'scale must be in \(0, 1\], got {scale}'):
        pair_wise_difference(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), 'skd', scale)
