import numpy as np
import pytest
from matplotlib import colormaps
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from mmkdml.apis.view.maps import (
    apply_display_window,
    blend_heat,
    class_probability,
    count_differing,
    js_divergence,
)

RNG = np.random.default_rng(0)


def test_display_window_is_linear_between_black_and_white():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(apply_display_window(image, 127.5, 255), image)
    windowed = apply_display_window(image, 100, 50).ravel()
    assert (windowed[:76] == 0).all()
    assert (windowed[125:] == 255).all()
    np.testing.assert_allclose(windowed[75:126], np.linspace(0, 255, 51), atol=0.5)


def test_heat_fades_out_and_has_the_opacity():
    image = RNG.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    gray = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    heat = RNG.random((4, 5))
    for nothing in (blend_heat(image, 0 * heat, 1), blend_heat(image, heat, 0)):
        np.testing.assert_allclose(nothing, gray, atol=0.5)
    brightest = 255 * np.array(colormaps['inferno'](1.0)[:3])
    full = blend_heat(image, np.ones((4, 5)), 1)
    np.testing.assert_allclose(full, np.broadcast_to(brightest, full.shape), atol=0.51)
    half = blend_heat(image, np.ones((4, 5)), 0.5)
    np.testing.assert_allclose(half, (gray + brightest) / 2, atol=0.51)


def test_one_score_is_that_of_the_foreground():
    one, two = np.array([0.25]), np.array([0.25, 0.75])
    assert [class_probability(one, index) for index in (0, 1)] == [0.75, 0.25]
    assert [class_probability(two, index) for index in (0, 1)] == [0.25, 0.75]


def test_differing_members_as_counted_pixel_by_pixel():
    labels = RNG.integers(0, 4, (5, 6, 7)).astype(np.uint8)
    expected = [5 - max(np.bincount(votes)) for votes in labels.reshape(5, -1).T]
    np.testing.assert_array_equal(count_differing(labels).ravel(), expected)
    assert not count_differing(labels[:1].repeat(3, axis=0)).any()


def test_divergence_of_two_members_is_that_of_scipy():
    a, b = RNG.dirichlet([0.3] * 3, (2, 20)).transpose(0, 2, 1)
    expected = jensenshannon(a, b, base=2, axis=0) ** 2
    np.testing.assert_allclose(js_divergence([a, b]), expected, atol=1e-12)


def test_divergence_is_the_mutual_information_of_class_and_member():
    shares = RNG.dirichlet([0.5] * 3, (4, 10)).transpose(0, 2, 1)
    joint = shares / 4
    independent = joint.sum(axis=0, keepdims=True) / 4
    expected = (joint * np.log2(joint / independent)).sum(axis=(0, 1))
    np.testing.assert_allclose(js_divergence(shares), expected, atol=1e-12)
    assert entropy([0.5, 0.5], base=2) == pytest.approx(
        js_divergence(np.array([[[0.0]], [[1.0]]])).item()
    )


@pytest.mark.parametrize('members', [2, 3, 5])
def test_divergence_bounds(members):
    certain = np.eye(4)[np.arange(members) % 4][..., None]
    counts = np.bincount(np.arange(members) % 4) / members
    assert js_divergence(certain).item() == pytest.approx(entropy(counts, base=2))
    assert js_divergence(certain[:1].repeat(members, axis=0)).item() == 0
