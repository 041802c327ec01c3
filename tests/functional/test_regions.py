import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from mmkdml.functional import intra_class_variation, region_affinity

BOTH = [intra_class_variation, region_affinity]


def maps(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def labels(num_classes, shape, ignored=0.2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    truth = torch.randint(num_classes, shape, generator=rng)
    truth[torch.rand(shape, generator=rng) < ignored] = 255
    return truth


def cosine(a, b):
    products = [sum(u * v for u, v in zip(x, y, strict=True)) for x, y in ((a, b), (a, a), (b, b))]
    return products[0] / math.sqrt(products[1] * products[2]) if products[1] * products[2] else 0.0


def pixels(image):
    """List the vectors of all pixels of (C, H, W)."""
    return image.flatten(1).T.tolist()


def mean(vectors):
    return [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]


def nearest(truth, size):
    """Resize labels (H', W') to a list of H * W, like legacy nearest-neighbor interpolation."""
    height, width = truth.shape
    return [
        truth[y * height // size[0], x * width // size[1]].item()
        for y, x in itertools.product(range(size[0]), range(size[1]))
    ]


def slow_variation(learner, source, truth):
    squares = []
    for image_s, image_t, image_truth in zip(learner, source, truth, strict=True):
        own = nearest(image_truth, image_s.shape[1:])
        for position, label in enumerate(own):
            likeness = []
            for image in (image_s, image_t):
                vectors = pixels(image)
                members = [v for v, other in zip(vectors, own, strict=True) if other == label]
                likeness.append(cosine(vectors[position], mean(members)))
            squares.append((likeness[0] - likeness[1]) ** 2 if label != 255 else 0.0)
    return sum(squares) / len(squares)


def slow_affinity(learner, source, truth, num_classes=2):
    squares = []
    for image_s, image_t, image_truth in zip(learner, source, truth, strict=True):
        for first, second in itertools.combinations(range(num_classes), 2):
            contrasts = []
            for image in (image_s, image_t):
                own = nearest(image_truth, image.shape[1:])
                regions = [
                    [v for v, label in zip(pixels(image), own, strict=True) if label == wanted]
                    for wanted in (first, second)
                ]
                contrasts.append(cosine(*map(mean, regions)) if all(regions) else 0.0)
            squares.append((contrasts[0] - contrasts[1]) ** 2)
    return sum(squares) / len(squares)


@pytest.mark.parametrize('size', [(3, 4), (6, 8), (7, 9), (1, 1)])
@pytest.mark.parametrize('num_classes', [2, 4])
def test_variation_matches_explicit_sums(num_classes, size):
    learner, source = maps(2, 3, 3, 4), maps(2, 5, 3, 4, seed=1)
    truth = labels(num_classes, (2, *size))
    value = intra_class_variation(learner, source, truth, num_classes)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow_variation(learner, source, truth), rel=1e-9)


@pytest.mark.parametrize('size', [(3, 4), (6, 8), (2, 6)])
@pytest.mark.parametrize('num_classes', [2, 4])
def test_affinity_matches_explicit_sums(num_classes, size):
    learner, source = maps(2, 3, 3, 4), maps(2, 5, *size, seed=1)
    truth = labels(num_classes, (2, 6, 8))
    value = region_affinity(learner, source, truth, num_classes)
    assert value.shape == ()
    expected = slow_affinity(learner, source, truth, num_classes)
    assert expected > 0
    assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('smooth', [0, 1])
def test_affinity_matches_the_reference_where_that_is_finite(smooth):
    # The reference adds 1 to the foreground's size, which keeps the direction of its mean.
    learner, source = maps(2, 3, 4, 6), maps(2, 5, 4, 6, seed=1)
    truth = labels(2, (2, 4, 6), ignored=0)
    contrasts = []
    for side in (learner, source):
        back, fore = ((truth == label).unsqueeze(1).double() for label in (0, 1))
        r0 = (side * back).sum((2, 3)) / back.sum((2, 3))
        r1 = (side * fore).sum((2, 3)) / (fore.sum((2, 3)) + smooth)
        contrasts.append(F.cosine_similarity(r0, r1, dim=1))
    torch.testing.assert_close(
        region_affinity(learner, source, truth), (contrasts[0] - contrasts[1]).square().mean()
    )


def test_variation_closed_form():
    # The mean of two orthogonal vectors of a class is at 45 degrees to both.
    learner = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    source = torch.ones(1, 3, 1, 2)
    truth = torch.zeros(1, 1, 2, dtype=torch.long)
    expected = (math.sqrt(0.5) - 1) ** 2
    assert intra_class_variation(learner, source, truth).item() == pytest.approx(expected)
    truth[0, 0, 1] = 1  # a class per pixel
    assert intra_class_variation(learner, source, truth).item() == pytest.approx(0, abs=1e-12)


def test_affinity_closed_form():
    learner = torch.tensor([[[[1.0, 0.0]], [[0.0, 5.0]]]])
    truth = torch.tensor([[[0, 1]]])
    assert region_affinity(learner, torch.ones(1, 3, 1, 2), truth).item() == pytest.approx(1)


@pytest.mark.parametrize('function', BOTH)
def test_invariances(function):
    learner, source = maps(2, 3, 4, 6), maps(2, 5, 4, 6, seed=1)
    truth = labels(3, (2, 8, 12))
    value = function(learner, source, truth, 3)
    assert value > 0
    torch.testing.assert_close(function(source, learner, truth, 3), value)
    assert function(learner, 3 * learner, truth, 3).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(
        function(2 * learner.flip(0), source.flip(0), truth.flip(0), 3), value
    )
    # Invariant to the order of the classes and to a class without pixels.
    renamed = truth.where(truth == 255, 2 - truth)
    torch.testing.assert_close(function(learner, source, renamed, 3), value)
    with_another = function(learner, source, truth, 4)
    factor = 1 if function is intra_class_variation else 3 / 6  # pairs of classes
    torch.testing.assert_close(with_another, factor * value)
    torch.testing.assert_close(function(learner, source, truth.byte(), 3), value)


@pytest.mark.parametrize('function', BOTH)
def test_ignored_pixels_have_no_influence(function):
    source, truth = maps(1, 5, 4, 6, seed=1), labels(2, (1, 4, 6))
    learner = maps(1, 3, 4, 6).requires_grad_()
    ignored = (truth == 255).unsqueeze(1)
    value = function(learner, source, truth)
    value.backward()
    assert (learner.grad * ignored == 0).all()
    assert (learner.grad * ~ignored != 0).any()
    changed = learner.detach() + 100 * ignored
    torch.testing.assert_close(function(changed, source + 100 * ignored, truth), value)
    renamed = truth.where(truth != 255, -1)
    torch.testing.assert_close(function(changed, source, renamed, ignore_index=-1), value)


MASKS = {
    'empty': torch.zeros(2, 8, 12, dtype=torch.long),
    'full': torch.ones(2, 8, 12, dtype=torch.long),
    'ignored': torch.full((2, 8, 12), 255),
    'one pixel': F.pad(torch.ones(2, 1, 1, dtype=torch.long), (4, 7, 2, 5)),
    'lost pixel': F.pad(torch.ones(2, 1, 1, dtype=torch.long), (5, 6, 3, 4)),
}
HARD = {
    'noise': lambda shape: maps(*shape),
    'rectified': lambda shape: maps(*shape).relu() * (torch.arange(shape[-1]) > 2),
    'zeros': lambda shape: torch.zeros(shape),
    'constant': lambda shape: torch.full(shape, 0.5),
    'huge': lambda shape: 1e4 * maps(*shape),
}


@pytest.mark.parametrize('function', BOTH)
@pytest.mark.parametrize('kind', HARD)
def test_extreme_maps_and_masks_have_small_finite_gradients(kind, function):
    source = maps(2, 5, 4, 6, seed=1).float()
    for mask in MASKS.values():
        learner = HARD[kind]((2, 3, 4, 6)).float().requires_grad_()
        value = function(learner, source, mask)
        value.backward()
        assert 0 <= value <= 4
        assert learner.grad.isfinite().all()
        assert learner.grad.abs().max() < 100


@pytest.mark.parametrize('mask', ['empty', 'full', 'ignored', 'lost pixel'])
def test_a_missing_region_gives_no_affinity_and_no_gradient(mask):
    learner = maps(2, 3, 4, 6).requires_grad_()
    value = region_affinity(learner, maps(2, 5, 4, 6, seed=1), MASKS[mask])
    value.backward()
    assert value.item() == 0
    assert (learner.grad == 0).all()
