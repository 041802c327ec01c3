import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from mmkdml.functional import attention_difference, importance_difference, pixel_similarity


def maps(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def unit(values):
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def slow_attention(image, exponent, size=None):
    """Compute the attention of (C, H, W), averaged over the cells of a grid if it has one."""
    channels, height, width = image.shape
    rows, columns = size or (height, width)
    values = []
    for y, x in itertools.product(range(rows), range(columns)):
        cell = [
            abs(image[c, row, column].item()) ** exponent
            for c in range(channels)
            for row in range(y * height // rows, (y + 1) * height // rows)
            for column in range(x * width // columns, (x + 1) * width // columns)
        ]
        values.append(sum(cell) / len(cell))
    return unit(values)


def slow_pixel_similarity(learner, source, size):
    squares = []
    for n in range(len(learner[0])):
        residuals = []
        for side in (learner, source):
            attentions = [slow_attention(features[n], 2, size) for features in side]
            residuals.append(
                [
                    unit([v - u for u, v in zip(a, b, strict=True)])
                    for a, b in itertools.combinations(attentions, 2)
                ]
            )
        for r_s, r_t in zip(*residuals, strict=True):
            squares += [(s - t) ** 2 for s, t in zip(r_s, r_t, strict=True)]
    return sum(squares) / len(squares)


def several(shapes, seed):
    return [maps(*shape, seed=seed + index) for index, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    ('shapes', 'size'),
    [
        ([(2, 3, 4, 6), (2, 5, 4, 6)], (4, 6)),
        ([(2, 3, 4, 6), (2, 5, 4, 6), (2, 1, 4, 6)], (4, 6)),
        ([(2, 3, 8, 12), (2, 5, 4, 6), (2, 2, 16, 12)], (4, 6)),
        ([(1, 3, 8, 2), (1, 5, 2, 8)], (2, 2)),
    ],
)
def test_pixel_similarity_matches_explicit_sums(shapes, size):
    learner, source = several(shapes, seed=0), several(shapes, seed=10)
    value = pixel_similarity(learner, source)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow_pixel_similarity(learner, source, size), rel=1e-9)


def test_pixel_similarity_pools_to_the_smallest_size_of_both_sides():
    learner = several([(2, 3, 8, 12), (2, 5, 4, 6)], seed=0)
    source = several([(2, 4, 4, 12), (2, 6, 8, 3)], seed=10)
    expected = slow_pixel_similarity(learner, source, (4, 3))
    assert pixel_similarity(learner, source).item() == pytest.approx(expected, rel=1e-9)


def test_pixel_similarity_closed_forms_and_identities():
    a, b = maps(2, 3, 4, 6), maps(2, 5, 4, 6, seed=1)
    assert pixel_similarity([a, b], [3 * a, -b]).item() == pytest.approx(0, abs=1e-12)
    # Swapping the layers negates every residual: |2 r|^2 over 24 pixels.
    assert pixel_similarity([a, b], [b, a]).item() == pytest.approx(4 / 24)
    c, d = maps(2, 2, 4, 6, seed=2), maps(2, 7, 4, 6, seed=3)
    value = pixel_similarity([a, b], [c, d])
    torch.testing.assert_close(pixel_similarity([b, a], [d, c]), value)
    torch.testing.assert_close(pixel_similarity([c, d], [a, b]), value)
    torch.testing.assert_close(
        pixel_similarity((a.flip(2), b.flip(2)), (c.flip(2), d.flip(2))), value
    )


def test_equal_attention_has_no_residual_and_no_gradient():
    a = maps(1, 3, 4, 4).float().requires_grad_()
    other = several([(1, 3, 4, 4), (1, 3, 4, 4)], seed=5)
    value = pixel_similarity([a, 3 * a], [side.float() for side in other])
    value.backward()
    assert value.item() == pytest.approx(1 / 16)  # |0 - r|^2 over 16 pixels
    assert (a.grad == 0).all()


@pytest.mark.parametrize('exponent', [1, 2, 4.0])
@pytest.mark.parametrize('shape', [(4, 6), (1, 1)])
def test_importance_matches_explicit_sums(shape, exponent):
    learner, source = maps(2, 3, *shape), maps(2, 5, *shape, seed=1)
    total = 0.0
    for image_s, image_t in zip(learner, source, strict=True):
        attentions = [slow_attention(image, exponent) for image in (image_s, image_t)]
        total += sum((s - t) ** 2 for s, t in zip(*attentions, strict=True))
    value = importance_difference(learner, source, exponent)
    assert value.shape == ()
    assert value.item() == pytest.approx(total / 2, rel=1e-9, abs=1e-15)


def test_importance_closed_form_and_identities():
    learner, source = torch.zeros(2, 1, 2, 3), torch.zeros(2, 4, 2, 3)
    learner[:, :, 0, 0] = source[:, :, 1, 2] = -3
    assert importance_difference(learner, source).item() == pytest.approx(2)
    a, b = maps(2, 3, 4, 6), maps(2, 5, 4, 6, seed=1)
    assert importance_difference(a, -7 * a).item() == pytest.approx(0, abs=1e-12)
    value = importance_difference(a, b)
    torch.testing.assert_close(value, 24 * attention_difference(a, b, exponent=4))
    torch.testing.assert_close(importance_difference(b, a), value)


@pytest.mark.parametrize('size', [(2, 3), (8, 12), (4, 3)])
def test_importance_resizes_the_learner_to_the_source(size):
    learner, source = maps(2, 3, *size), maps(2, 5, 4, 6, seed=1)
    resized = F.interpolate(learner, size=(4, 6), mode='bilinear', align_corners=False)
    torch.testing.assert_close(
        importance_difference(learner, source), importance_difference(resized, source)
    )
