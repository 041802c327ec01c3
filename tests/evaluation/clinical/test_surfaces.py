import numpy as np
import pytest
import torch

import mmkdml.compat  # noqa: F401  # prepares torchvision, which MONAI imports

# isort: split
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)

from mmkdml.evaluation.clinical.surfaces import surface_distances, surface_scores


def blobs(shape, seed, threshold=0.55):
    """Return two smooth random masks that overlap in part and touch the border."""
    rng = np.random.default_rng(seed)
    noise = rng.random((2, *shape)) + 0.5 * rng.random(shape)
    for axis in range(1, noise.ndim):
        noise = (noise + np.roll(noise, 1, axis)) / 2
    return noise > np.quantile(noise, threshold)


def by_monai(pred, truth, spacing, tolerance):
    pred, truth = (torch.from_numpy(one)[None, None].float() for one in (pred, truth))
    common = dict(include_background=True, spacing=spacing)
    return dict(
        HD95=compute_hausdorff_distance(pred, truth, percentile=95, **common).item(),
        ASD=compute_average_surface_distance(pred, truth, symmetric=True, **common).item(),
        NSD=100 * compute_surface_dice(pred, truth, [tolerance], **common).item(),
    )


@pytest.mark.parametrize(
    ('shape', 'spacing'),
    [
        ((9, 14, 11), (1.0, 1.0, 1.0)),
        ((9, 14, 11), (3.0, 0.5, 0.75)),  # anisotropic
        ((40, 31), (0.25, 2.0)),
    ],
)
@pytest.mark.parametrize('seed', range(3))
def test_equal_to_monai(shape, spacing, seed):
    pred, truth = blobs(shape, seed)
    found = surface_scores(surface_distances(pred, truth, spacing), 1.1)
    assert found == pytest.approx(by_monai(pred, truth, spacing, 1.1), rel=1e-6)


@pytest.mark.parametrize('place', [(0, 0, 0), (2, 3, 4), (4, 5, 6)])
def test_masks_of_one_voxel(place):
    pred, truth = np.zeros((2, 5, 6, 7), bool)
    pred[place], truth[2, 3, 4] = True, True
    spacing = (4.0, 1.0, 0.5)
    distance = np.linalg.norm((np.array(place) - (2, 3, 4)) * spacing)
    found = surface_scores(surface_distances(pred, truth, spacing), 1.0)
    assert found == dict(HD95=distance, ASD=distance, NSD=100.0 * (distance <= 1))


def test_shifted_boxes_have_distances_in_closed_form():
    pred, truth = np.zeros((2, 20, 12, 12), bool)
    truth[2:10, 2:10, 2:10], pred[5:13, 2:10, 2:10] = True, True
    distances = surface_distances(pred, truth, (2.0, 1.0, 1.0))
    # The top of the shifted box is 3 slices of 2 mm away from the other one.
    assert distances[0].max() == distances[1].max() == 6
    surface = 8**3 - 6**3
    assert list(map(len, distances)) == [surface, surface]
    assert surface_scores(distances, 6.0)['NSD'] == 100
    # Sides of the common part, without the voxels on top and bottom, coincide.
    assert surface_scores(distances, 0.0)['NSD'] < 100


def test_a_distance_equal_to_the_tolerance_is_correct_in_spite_of_rounding():
    pred, truth = np.zeros((2, 10, 1), bool)
    pred[8], truth[5] = True, True
    assert 8 * 0.1 - 5 * 0.1 > 0.3  # rounded
    found = surface_scores(surface_distances(pred, truth, (0.1, 1.0)), 0.3)
    assert found['NSD'] == 100
