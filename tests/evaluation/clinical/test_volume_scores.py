import math
from itertools import product

import numpy as np
import pytest

import mmkdml.compat  # noqa: F401
from mmkdml.evaluation.clinical.surfaces import surface_distances, surface_scores
from mmkdml.evaluation.clinical.volume_scores import Conventions, volume_scores

SPACING = (2.5, 0.8, 0.5)
ONE = Conventions([1.0])


def labels(shape, classes, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.06, rng.integers(1, classes, shape), 0).astype(np.uint8)


def components(mask):
    """Return the sets of connected elements, found by walking through all neighbors."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        border, own = [left.pop()], set()
        while border:
            place = border.pop()
            own.add(place)
            for step in product((-1, 0, 1), repeat=mask.ndim):
                neighbor = tuple(a + b for a, b in zip(place, step, strict=True))
                if neighbor in left:
                    left.remove(neighbor)
                    border.append(neighbor)
        found.append(own)
    return found


def slow_lesions(pred, truth, overlap):
    def is_covered(lesion, other):
        hits = sum(other[place] for place in lesion)
        return hits > 0 and hits >= overlap * len(lesion)

    true = [is_covered(one, pred) for one in components(truth)]
    return 100 * np.mean(true), sum(not is_covered(one, truth) for one in components(pred))


@pytest.mark.parametrize('shape', [(8, 11, 9), (25, 30)])
@pytest.mark.parametrize('overlap', [0.0, 0.5, 1.0])
def test_lesions_equal_those_of_a_walk_through_the_neighbors(shape, overlap):
    pred, truth = labels(shape, 2, 1), labels(shape, 2, 2)
    truth[pred > 0] |= np.random.default_rng(0).random((pred > 0).sum()) < 0.5
    conventions = Conventions([1.0], overlap)
    (found,) = volume_scores(pred, truth, SPACING[-len(shape) :], conventions)
    sensitivity, positives = slow_lesions(pred > 0, truth > 0, overlap)
    assert found['lesion_sensitivity'] == pytest.approx(sensitivity)
    assert found['false_positives'] == positives
    assert 0 < sensitivity < 100


@pytest.mark.parametrize('seed', range(3))
def test_cropping_changes_no_value(seed):
    pred, truth = (labels((10, 12, 14), 4, 10 * seed + n) for n in range(2))
    conventions = Conventions([0.5, 1.0, 2.0])
    found = volume_scores(pred, truth, SPACING, conventions)
    for label, values in enumerate(found, 1):
        masks = pred == label, truth == label
        expected = surface_scores(
            surface_distances(*masks, SPACING), conventions.tolerances[label - 1]
        )
        sizes = [int(mask.sum()) for mask in masks]
        both = (masks[0] & masks[1]).sum()
        expected |= {
            'Dice': 200 * both / sum(sizes),
            'case_IoU': 100 * both / (sum(sizes) - both),
            'volume_error': 100 * abs(sizes[0] - sizes[1]) / sizes[1],
            'volume_difference': abs(sizes[0] - sizes[1]) * 2.5 * 0.8 * 0.5 / 1000,
        }
        assert {key: values[key] for key in expected} == pytest.approx(expected)
    wide = [np.pad(one, ((30, 0), (0, 50), (7, 7))) for one in (pred, truth)]
    assert volume_scores(*wide, SPACING, conventions) == found


def test_equal_masks_are_perfect():
    truth = labels((6, 7, 8), 2, 0)
    (found,) = volume_scores(truth, truth, SPACING, ONE)
    percents = dict.fromkeys(('Dice', 'case_IoU', 'NSD', 'lesion_sensitivity'), 100.0)
    errors = ('HD95', 'ASD', 'volume_error', 'volume_difference', 'false_positives', 'one_sided')
    assert found == percents | dict.fromkeys(errors, 0)


@pytest.mark.parametrize('empty', ['skip', 'perfect'])
def test_a_class_in_neither_mask(empty):
    none = np.zeros((4, 5, 6), np.uint8)
    (found,) = volume_scores(none, none, SPACING, Conventions([1.0], empty=empty))
    best, least = (math.nan, math.nan) if empty == 'skip' else (100, 0)
    percents = dict.fromkeys(('Dice', 'case_IoU', 'NSD', 'lesion_sensitivity'), best)
    errors = dict.fromkeys(('HD95', 'ASD', 'volume_error'), least)
    counted = dict(volume_difference=0, false_positives=0, one_sided=False)
    assert found == pytest.approx(percents | errors | counted, nan_ok=True)


@pytest.mark.parametrize('missing', ['diagonal', 'skip'])
def test_a_class_in_one_mask_only(missing):
    shape = (4, 5, 6)
    none, some = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    some[1, 1, 1] = some[3, 4, 4] = 1
    conventions = Conventions([1.0], missing=missing)
    worst = math.nan if missing == 'skip' else math.sqrt(10**2 + 4**2 + 3**2)
    common = dict(Dice=0, case_IoU=0, NSD=0, HD95=worst, ASD=worst, volume_difference=0.002)
    common['one_sided'] = True
    (missed,) = volume_scores(none, some, SPACING, conventions)
    own = dict(volume_error=100, lesion_sensitivity=0, false_positives=0)
    assert missed == pytest.approx(common | own, nan_ok=True)
    (invented,) = volume_scores(some, none, SPACING, conventions)
    own = dict(volume_error=math.nan, lesion_sensitivity=math.nan, false_positives=2)
    assert invented == pytest.approx(common | own, nan_ok=True)


def test_a_volume_of_one_slice_is_scored_as_an_image_but_has_a_volume():
    pred, truth = labels((1, 12, 13), 2, 3), labels((1, 12, 13), 2, 4)
    (flat,) = volume_scores(pred[0], truth[0], SPACING[1:], ONE)
    (found,) = volume_scores(pred, truth, SPACING, ONE)
    assert found.pop('volume_difference') == pytest.approx(2.5 * flat.pop('volume_difference'))
    assert found == flat
