import warnings

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_sensitivity_at_specificity,
)

from mmkdml.statistics.ranking import RANKED, Ranking, Scored

GROUPS = 12


def scored(seed, classes=3, cases=60, digits=1):
    """Return scores with ties, truth and groups of cases."""
    rng = np.random.default_rng(seed)
    truth = np.eye(classes, dtype=bool)[rng.integers(0, classes, cases)]
    scores = rng.random((cases, classes)) + 0.4 * truth
    scores = (scores / scores.sum(1, keepdims=True)).round(digits).astype(np.float32)
    return scores, truth, rng.integers(0, GROUPS, cases)


def by_torchmetrics(scores, truth):
    pred, target = torch.from_numpy(scores), torch.from_numpy(truth).long()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return [
            binary_auroc(pred, target).item(),
            binary_average_precision(pred, target).item(),
            binary_sensitivity_at_specificity(pred, target, 0.95)[0].item(),
        ]


@pytest.mark.parametrize('digits', [1, 2, 7])
def test_resamples_equal_torchmetrics_on_copied_cases(digits):
    scores, truth, places = scored(digits, digits=digits)
    times = np.random.default_rng(0).integers(0, 4, (5, GROUPS))
    times = np.vstack([np.ones(GROUPS, int), times])
    found = Ranking(scores, truth, places, GROUPS).summed(times)
    assert found.shape == (6, len(RANKED), 3)
    for drawn, values in zip(times, found, strict=True):
        copies = np.repeat(np.arange(len(scores)), drawn[places])
        for label in range(3):
            expected = by_torchmetrics(scores[copies, label], truth[copies, label])
            np.testing.assert_allclose(values[:, label], expected, rtol=1e-5)


def test_perfect_constant_and_inverted_scores():
    truth = np.array([[1], [1], [0], [0]], bool)
    places, ones = np.arange(4), np.ones((1, 4))
    for scores, expected in (
        ([4, 3, 2, 1], [1, 1, 1]),
        ([1, 1, 1, 1], [0.5, 0.5, 0]),
        ([1, 2, 3, 4], [0, (1 / 3 + 2 / 4) / 2, 0]),
    ):
        column = np.array(scores, float)[:, None]
        found = Ranking(column, truth, places, 4).summed(ones)[0, :, 0]
        np.testing.assert_allclose(found, expected)


def test_specificity_of_exactly_95_percent_suffices():
    truth = np.array([True] * 2 + [False] * 20)[:, None]
    scores = np.r_[0.9, 0.7, 0.8, np.full(19, 0.1)][:, None]
    found = Ranking(scores, truth, np.arange(22), 22)
    assert found.summed(np.ones((1, 22)))[0, 2, 0] == 1  # one alarm in 20
    without = np.ones((1, 22))
    without[0, -1] = 0
    assert found.summed(without)[0, 2, 0] == 0.5  # one alarm in 19


def test_a_class_without_cases_or_others_is_undefined():
    scores, truth, places = scored(0)
    truth[:, 2] = False
    times = np.ones((2, GROUPS))
    times[1, places[truth[:, 0]]] = 0  # no case of class 0 is drawn
    found = Ranking(scores, truth, places, GROUPS).summed(times)
    assert np.isnan(found[:, :, 2]).all()
    assert np.isnan(found[1, :, 0]).all()
    assert np.isfinite(found[0, :, :2]).all()


def test_chunks_do_not_change_values(monkeypatch):
    scores, truth, places = scored(3)
    times = np.random.default_rng(1).integers(0, 3, (20, GROUPS))
    whole = Ranking(scores, truth, places, GROUPS).summed(times)
    monkeypatch.setattr('mmkdml.statistics.ranking._CHUNK', 130)
    np.testing.assert_array_equal(Ranking(scores, truth, places, GROUPS).summed(times), whole)


def test_curves_are_only_computed_for_measures_that_need_them(monkeypatch):
    scores, truth, places = scored(4)
    counts = np.random.default_rng(0).integers(0, 9, (GROUPS, 5, 3))
    one = Scored(counts, scores, truth, places)
    monkeypatch.setattr('mmkdml.statistics.ranking.Ranking', None)  # cannot be built
    times = np.random.default_rng(1).integers(0, 3, (7, GROUPS))
    np.testing.assert_array_equal(one.summed(times)(False), np.einsum('bg,grk->brk', times, counts))
    np.testing.assert_array_equal(one.by_group()(False), counts)
