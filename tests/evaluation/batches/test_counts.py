"""Counts against loops and closed forms in float64."""

import math

import numpy as np
import pytest
import torch

from mmkdml.evaluation import Calibration, Diversity
from mmkdml.evaluation.batches import (
    confusion_counts,
    divergence_sums,
    equal_to,
    reliability_counts,
)
from mmkdml.evaluation.batches import counts as module


def labels(count, shape, seed):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed)).byte()


@pytest.mark.parametrize('number', [2, 15, 16, 300])
@pytest.mark.parametrize('pixels', [50, 5000])
def test_confusion_equals_numpy(number, pixels):
    rows, columns = (torch.randint(number, (3, pixels)) for _ in range(2))
    rows[0, :9] = 1000  # ignored
    if number < 256:
        rows = rows.masked_fill(rows == 1000, 255).byte()
        columns = columns.byte()
    ignore = int(rows[0, 0])
    found = confusion_counts([rows, columns], number, ignore)
    expected = np.zeros_like(found)
    for image in range(3):
        for row, column in zip(rows[image].tolist(), columns[image].tolist(), strict=True):
            if row != ignore:
                expected[image, row, column] += 1
    np.testing.assert_array_equal(found, expected)


def test_ignored_class_is_left_out():
    rows, columns = torch.tensor([[0, 1, 1]]).byte(), torch.tensor([[1, 1, 0]]).byte()
    assert confusion_counts([rows, columns], 2, 0).tolist() == [[[0, 0], [1, 1]]]
    assert confusion_counts([rows, columns], 2).tolist() == [[[0, 1], [1, 1]]]


@pytest.mark.parametrize('number', [256, 300, 1000])
def test_small_labels_of_many_classes(number):
    rows, columns = torch.tensor([[0, 44, 200]]).byte(), torch.tensor([[1, 44, 255]]).byte()
    counts = confusion_counts([rows, columns], number)[0]
    assert list(zip(*counts.nonzero(), strict=True)) == [(0, 1), (44, 44), (200, 255)]


@pytest.mark.parametrize(('index', 'label'), [(-100, 156), (-1, 255), (300, 44)])
def test_index_that_uint8_does_not_hold_is_no_label(index, label):
    labels = torch.full((1, 4), label, dtype=torch.uint8)
    assert not equal_to(labels, index).any()
    assert equal_to(labels.long() - label + index, index).all()
    assert equal_to(labels, label).all()
    assert confusion_counts([labels, labels], 256, index)[0, label, label] == 4
    metrics = [Calibration(ignore_index=index), Diversity(ignore_index=index)]
    member = dict(pred_label=torch.tensor([label]), pred_score=torch.full((256,), 1 / 256))
    sample = dict(members=dict(a=member, b=member), gt_label=torch.tensor([label]), **member)
    for metric in metrics:
        metric.process(None, [sample])
        assert not np.isnan(next(iter(metric.compute_metrics(metric.results).values())))


def test_labels_that_are_no_classes_raise():
    rows, columns = torch.tensor([[0, 1, 255]]), torch.tensor([[1, 2, 2]])
    with pytest.raises(ValueError, match=r'\[0, 2\), got \[255\]'):
        confusion_counts([rows, columns], 2)
    with pytest.raises(ValueError, match=r'\[0, 2\), got \[2\]'):
        confusion_counts([rows, columns], 2, 255)
    # An ignored pixel may have any prediction.
    assert confusion_counts([rows[:, 2:], columns[:, 2:]], 2, 255).sum() == 0


def test_divergence_equals_the_closed_form():
    logits = torch.randn(3, 4, 3, 500, generator=torch.Generator().manual_seed(0)) * 6
    p, *others = logits.softmax(2).unbind()

    def expected(p, q):
        p, q = (np.maximum(one.double().numpy(), 1e-7) for one in (p, q))
        p, q = (one / one.sum(1, keepdims=True) for one in (p, q))
        return (p * np.log(p / q)).sum((1, 2))

    found = divergence_sums(p, others)
    for own, q in zip(found, others, strict=True):
        np.testing.assert_allclose(own / 500, expected(p, q) / 500, atol=1e-6)
    one = p[:, :1]  # of a network with one logit: the foreground alone
    both = torch.cat([1 - one.double(), one.double()], 1)
    np.testing.assert_allclose(divergence_sums(one, [one])[0], 0, atol=1e-9)
    q = others[0][:, 1:2]
    pair = torch.cat([1 - q.double(), q.double()], 1)
    np.testing.assert_allclose(
        divergence_sums(one, [q])[0] / 500, expected(both, pair) / 500, atol=1e-6
    )


def float32_around(edge):
    """Return the float32 number next to an edge of bins, and its neighbors."""
    near = np.float32(edge)
    return [np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(2))]


@pytest.mark.parametrize('bins', [1, 4, 7, 10, 15, 100])
def test_bins_are_exact_next_to_their_edges(bins):
    edges = np.linspace(0, 1, bins + 1)
    foreground = torch.tensor(np.unique([one for edge in edges for one in float32_around(edge)]))
    foreground = foreground.clamp(0, 1)[None]
    for label in (0, 1):
        own = torch.full(foreground.shape, label, dtype=torch.uint8)
        found = reliability_counts([own], [foreground[:, None]], own, torch.zeros_like(own), bins)[
            0, 0, 0
        ]
        confidence = (foreground[0] if label else 1 - foreground[0]).double().numpy()
        places = np.minimum(np.searchsorted(edges, confidence, side='right') - 1, bins - 1)
        np.testing.assert_array_equal(found[0], np.bincount(places, minlength=bins))
        np.testing.assert_array_equal(found[2], found[0])
        np.testing.assert_allclose(
            found[1], np.bincount(places, confidence, bins), atol=1e-9 * len(places)
        )


@pytest.mark.parametrize('classes', [1, 2, 3])
def test_reliability_equals_loops(classes, monkeypatch):
    rng = torch.Generator().manual_seed(classes)
    scores = torch.randn(4, max(2, classes), 60, generator=rng).mul(3).softmax(1)
    own, truth = (labels(max(2, classes), (4, 60), seed) for seed in (1, 2))
    regions = labels(3, (4, 60), 3)
    given = scores[:, 1:] if classes == 1 else scores
    found = reliability_counts([own, truth], [given, given], truth, regions, 5)
    expected = np.zeros((4, 3, 3, 5))
    for image, pixel in np.ndindex(4, 60):
        label = int(own[image, pixel])
        confidence = float(scores[image, label, pixel])
        cell = expected[image, int(regions[image, pixel]), :, min(int(confidence * 5), 4)]
        cell += [1, confidence, label == int(truth[image, pixel])]
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert found[1, ..., 2, :].sum() == 240  # the truth is always right
    # Neither the number of images nor the order of pixels changes a bit.
    monkeypatch.setattr(module, '_CHUNK', 100)
    order = torch.randperm(60, generator=rng)
    again = reliability_counts(
        [own[:, order]], [given[..., order]], truth[:, order], regions[:, order], 5
    )
    np.testing.assert_array_equal(again[0], found[0])


def test_diverged_networks_have_no_sums():
    own = torch.zeros(2, 3, dtype=torch.uint8)
    scores = torch.tensor([[[0.25, 0.25, 0.25]], [[0.25, math.nan, 0.25]]])
    sums = reliability_counts([own], [scores], own, own, 4)[0, :, 0, 1]
    assert sums[0].tolist() == [0, 0, 0, 2.25]
    assert np.isnan(sums[1]).all()
