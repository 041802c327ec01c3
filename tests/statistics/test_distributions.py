"""Bootstrap values, as of ``estimate(..., resamples=n)``."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from mmkdml.statistics import measures
from mmkdml.statistics.bootstrap import RESAMPLES, Contrast, estimate

ENSEMBLE = ('a', 'ensemble')
MEAN, DIFFERENCE = Contrast(ENSEMBLE), Contrast(ENSEMBLE, (('b', 'ensemble'),))


def segmented(seeds=3):
    """Case tables whose IoU is not a mean over groups: resamples must sum pixels."""
    rng = np.random.default_rng(1)
    tables = {}
    for name, member in (('a', 'ensemble'), ('a', 'student_1'), ('a', 'student_2')):
        for seed in range(seeds):
            pixels = dict(zip(('tp', 'fp', 'fn'), rng.integers(1, 90, (3, 16)), strict=True))
            cases = pd.DataFrame(
                dict(member=member, id=[f'i{i // 2}' for i in range(16)], **pixels)
            )
            cases['label'] = [1, 2] * 8
            cases['group'] = np.repeat(['x', 'y', 'x', 'z'], 4)
            tables.setdefault((name, seed), []).append(cases)
    return tables


def resampled_iou(tables, member, seeds, groups):
    """Mean IoU over drawn seeds, from case tables with each group repeated as drawn."""
    scores = []
    for seed in seeds:
        cases = pd.concat(one for one in tables['a', seed] if one['member'].iloc[0] == member)
        pixels = pd.concat([cases[cases['group'] == group] for group in groups])
        sums = pixels.groupby('label')[['tp', 'fp', 'fn']].sum()
        scores.append(100 * (sums['tp'] / sums.sum(axis=1)).mean())
    return np.mean(scores)


def test_accuracy_of_one_seed_equals_scipy_bootstrap_of_the_mean(classified, counts_of):
    cases = classified(np.random.default_rng(0).random(40) < 0.7)
    (found,) = estimate(counts_of({('a', 5): [cases]}), 'accuracy', [MEAN], resamples=RESAMPLES)
    by_name = cases.sort_values('group')['pred'].to_numpy()
    expected = bootstrap((100.0 * by_name,), np.mean, batch=1000, method='percentile', rng=0)
    np.testing.assert_allclose(found.distribution, expected.bootstrap_distribution)
    (without,) = estimate(counts_of({('a', 5): [cases]}), 'accuracy', [MEAN])
    assert not without.distribution.size
    assert (without.low, without.high) == (found.low, found.high)


def test_seeds_and_groups_are_crossed_and_the_competitor_is_the_best_one(counts_of):
    tables = segmented()
    competitors = (('a', 'student_1'), ('a', 'student_2'))
    found = estimate(
        counts_of(tables), 'IoU', [MEAN, Contrast(ENSEMBLE, competitors)], resamples=40
    )
    rng = np.random.default_rng(0)
    seeds, groups = rng.integers(0, 3, (40, 3)), rng.integers(0, 3, (40, 3))
    names = np.array(['x', 'y', 'z'])
    original = [resampled_iou(tables, one, range(3), names) for one in ('student_1', 'student_2')]
    best = f'student_{1 + int(np.argmax(original))}'
    for index, (drawn_seeds, drawn) in enumerate(zip(seeds, names[groups], strict=True)):
        ensemble, other = (
            resampled_iou(tables, member, drawn_seeds, drawn) for member in ('ensemble', best)
        )
        assert found[0].distribution[index] == pytest.approx(ensemble)
        assert found[1].distribution[index] == pytest.approx(ensemble - other)
    ensemble = resampled_iou(tables, 'ensemble', range(3), names)
    assert found[1].value == pytest.approx(ensemble - max(original))
    assert found[1].resampled == ('seeds', 'groups')


def test_variance_of_resampled_seeds(classified, counts_of):
    tables = {('a', seed): [classified([1] * seed + [0] * (8 - seed))] for seed in (2, 3, 7)}
    for (cases,) in tables.values():
        cases['group'] = 'single'
    (found,) = estimate(counts_of(tables), 'accuracy', [MEAN], resamples=RESAMPLES)
    assert found.resampled == ('seeds',)
    scores = np.array([2, 3, 7]) / 8 * 100
    assert found.distribution.var() == pytest.approx(scores.var() / 3, rel=0.05)
    assert set(np.round(found.distribution, 6)) == {
        round(float(np.mean(draw)), 6)
        for draw in np.stack(np.meshgrid(scores, scores, scores), -1).reshape(-1, 3)
    }


def test_values_depend_on_the_random_seed_and_not_on_other_contrasts(random_tables, counts_of):
    both = counts_of(random_tables(names=('a', 'b', 'c')))
    others = [Contrast((name, 'ensemble')) for name in 'cba']
    (single,) = estimate(both, 'accuracy', [DIFFERENCE], resamples=300)
    among = estimate(both, 'accuracy', [*others, DIFFERENCE], resamples=300)[-1]
    np.testing.assert_array_equal(single.distribution, among.distribution)
    (other,) = estimate(both, 'accuracy', [DIFFERENCE], resamples=300, rng=1)
    assert (single.distribution != other.distribution).any()
    assert (single.low, single.high, single.p) == (other.low, other.high, other.p)


def test_memory_is_bounded_by_the_batch(monkeypatch, random_tables, counts_of):
    rows = []

    def spy(self, counts):
        rows.append(len(counts))
        return value(self, counts)

    value = measures.Measure.value
    tables = counts_of(random_tables(1, images=30000))
    monkeypatch.setattr(measures.Measure, 'value', spy)
    estimate(tables, 'accuracy', [MEAN], resamples=150)
    batches = [number for number in rows if number <= 150]
    assert max(batches) * 30000 <= 2**21
    assert sum(batches) >= 150


def test_undefined_values_are_nan_and_do_not_affect_the_interval(counts_of):
    # Group x has no foreground: IoU is 0 / 0 if only x is drawn.
    columns = dict(id=['i', 'j', 'k'], group=['x', 'y', 'z'], label=1, tp=[0, 5, 4], fp=[0, 1, 3])
    cases = pd.DataFrame(dict(member='ensemble', fn=0, **columns))
    (found,) = estimate(counts_of({('a', 0): [cases]}), 'IoU', [MEAN], resamples=400)
    assert np.isnan(found.distribution).sum() == pytest.approx(400 / 27, abs=12)
    assert found.low < found.value < found.high


def test_resamples_are_drawn_in_batches_of_1000(classified, counts_of):
    """The size of a batch decides the random numbers, so published figures depend on it."""
    tables = {
        (name, seed): [classified(correct, groups=['x', 'y'])]
        for name, seed, correct in (('a', 0, [1, 0]), ('a', 1, [1, 1]))
    }
    (found,) = estimate(counts_of(tables), 'accuracy', [MEAN], resamples=1004)
    rng, scores = np.random.default_rng(0), 100 * np.array([[1, 0], [1, 1]])  # seeds, groups
    draws = [[rng.integers(0, 2, (size, 2)) for _ in range(2)] for size in (1000, 4)]
    expected = [
        scores[seeds][:, groups].mean()
        for batch in draws
        for seeds, groups in zip(*batch, strict=True)
    ]
    assert found.distribution == pytest.approx(np.array(expected))
