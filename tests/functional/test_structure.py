import math

import pytest
import torch

from mmkdml.functional import pair_wise_difference, pixel_wise_divergence, prediction_kl
from mmkdml.functional.structure import PAIR_WISE_REFERENCES, PIXEL_WISE_REFERENCES


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
def test_pixel_wise_matches_explicit_sums(num_logits, reference):
    learner, source = maps(2, num_logits, 3, 4), maps(2, num_logits, 3, 4, seed=1)
    value = pixel_wise_divergence(learner, source, reference)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow_pixel_wise(learner, source, reference), rel=1e-10)


def test_pixel_wise_closed_forms():
    uniform = torch.zeros(5, 4, 2, 3)
    assert pixel_wise_divergence(uniform, uniform).item() == 0
    # SKD sums the entropy over the images.
    value = pixel_wise_divergence(uniform, uniform, 'skd').item()
    assert value == pytest.approx(5 * math.log(4))


def test_pixel_wise_gradients_of_references_differ_by_a_factor():
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
    """Compute the cosines of one image (C, H, W); the border may cut off the last regions."""
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
def test_pair_wise_matches_explicit_sums(shape):
    learner, source = maps(2, 3, *shape), maps(2, 5, *shape, seed=1)
    value = pair_wise_difference(learner, source)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow_pair_wise(learner, source, (2, 2)), rel=1e-10)


@pytest.mark.parametrize(
    ('scale', 'shape', 'size'),
    [
        (0.5, (4, 6), (2, 3)),
        (0.5, (5, 7), (2, 3)),
        (0.3, (8, 10), (2, 3)),
        (0.5, (1, 1), (1, 1)),
        (1, (4, 6), (4, 6)),
    ],
)
def test_pair_wise_of_skd_matches_explicit_sums(scale, shape, size):
    learner, source = maps(2, 3, *shape), maps(2, 5, *shape, seed=1)
    value = pair_wise_difference(learner, source, 'skd', scale)
    assert value.dtype == torch.float32
    expected = slow_pair_wise(learner, source, size)
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_pair_wise_closed_form():
    # Two regions: orthogonal in the source, equal in the learner.
    source, learner = torch.zeros(1, 2, 2, 4), torch.ones(1, 1, 2, 4)
    source[:, 0, :, :2] = 3
    source[:, 1, :, 2:] = 5
    assert pair_wise_difference(learner, source).item() == pytest.approx(0.5)
    assert pair_wise_difference(-learner, source).item() == pytest.approx(0.5)
    assert pair_wise_difference(7 * source, source).item() == pytest.approx(0, abs=1e-12)


def test_pair_wise_references_with_equal_regions_differ_only_in_gradient():
    values, gradients = [], []
    for reference in PAIR_WISE_REFERENCES:
        learner = maps(2, 3, 4, 4).requires_grad_()
        value = pair_wise_difference(learner, maps(2, 5, 4, 4, seed=1), reference)
        value.backward()
        values.append(value.item())
        gradients.append(learner.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()
    # If the length is differentiated, the gradient is orthogonal to a region of one pixel.
    learner = maps(1, 3, 2, 2).requires_grad_()
    pair_wise_difference(learner, maps(1, 5, 2, 2, seed=1)).backward()
    assert (learner.grad * learner).sum().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize('reference', PIXEL_WISE_REFERENCES)
@pytest.mark.parametrize('num_logits', [1, 3])
def test_padding_that_is_masked_does_not_count(reference, num_logits):
    learner, source = maps(2, num_logits, 4, 5), maps(2, num_logits, 4, 5, seed=1)
    expected = pixel_wise_divergence(learner, source, reference)
    padded = [torch.nn.functional.pad(x, (0, 3, 0, 4)) for x in (learner, source)]
    padded[0][:, 0, 4:] = 5
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, :4, :5] = True
    torch.testing.assert_close(pixel_wise_divergence(*padded, reference, mask), expected)
    assert not torch.isclose(pixel_wise_divergence(*padded, reference), expected)
    nothing = pixel_wise_divergence(*padded, reference, torch.zeros_like(mask))
    assert nothing.item() == 0


@pytest.mark.parametrize('reference', PIXEL_WISE_REFERENCES)
def test_masks_of_images_of_different_sizes(reference):
    # The mean is over all pixels, except for 'skd', which sums the means of the images.
    learner, source = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1, :, 1:] = False
    first = pixel_wise_divergence(learner[:1], source[:1], reference)
    second = pixel_wise_divergence(learner[1:, :, :, :1], source[1:, :, :, :1], reference)
    expected = first + second if reference == 'skd' else (16 * first + 4 * second) / 20
    torch.testing.assert_close(pixel_wise_divergence(learner, source, reference, mask), expected)
