import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from mmkdml.statistics import measures
from mmkdml.statistics.bootstrap import Contrast, estimate
from mmkdml.statistics.counts import count_cases
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord

ENSEMBLE = ('a', 'ensemble')
MEAN, DIFFERENCE = Contrast(ENSEMBLE), Contrast(ENSEMBLE, (('b', 'ensemble'),))


def classified(correct, member='ensemble', groups=None):
    """Case table of one member for images of class 1; each image is a group by default."""
    correct = np.asarray(correct, int)
    ids = [f'i{index}' for index in range(len(correct))]
    return pd.DataFrame(
        dict(member=member, id=ids, group=ids if groups is None else groups, truth=1, pred=correct)
    )


def counts_of(tables):
    """Count ``{(name, seed): case tables}``."""
    runs = [
        RunRecord(
            name, seed, 'ml', 'v1', 'done', measured={'best': Measurement({}, pd.concat(cases))}
        )
        for (name, seed), cases in tables.items()
    ]
    return count_cases(SuiteRecord('s', 'S', ('accuracy',), (), runs), 'best')


def random_tables(seeds=3, images=30, names=('a', 'b'), accuracy=0.7):
    rng = np.random.default_rng(7)
    return {
        (name, seed): [classified(rng.random(images) < accuracy)]
        for name in names
        for seed in range(seeds)
    }


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


def test_accuracy_of_one_seed_equals_scipy_bootstrap_of_the_mean():
    cases = classified(np.random.default_rng(0).random(40) < 0.7)
    (found,) = estimate(counts_of({('a', 5): [cases]}), 'accuracy', [MEAN])
    by_name = cases.sort_values('group')['pred'].to_numpy()
    expected = bootstrap((100.0 * by_name,), np.mean, batch=1000, method='percentile', rng=0)
    np.testing.assert_allclose(found.distribution, expected.bootstrap_distribution)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval))
    assert found.value == pytest.approx(100 * by_name.mean())
    assert (found.seeds, found.groups, found.resampled) == ((5,), 40, ('groups',))
    assert np.isnan(found.p)
    assert found.undefined_reason == ''


def resampled_iou(tables, member, seeds, groups):
    """Mean IoU over drawn seeds, from case tables with each group repeated as drawn."""
    scores = []
    for seed in seeds:
        cases = pd.concat(one for one in tables['a', seed] if one['member'].iloc[0] == member)
        pixels = pd.concat([cases[cases['group'] == group] for group in groups])
        sums = pixels.groupby('label')[['tp', 'fp', 'fn']].sum()
        scores.append(100 * (sums['tp'] / sums.sum(axis=1)).mean())
    return np.mean(scores)


def test_seeds_and_groups_are_crossed_and_the_best_competitor_is_reselected():
    tables = segmented()
    competitors = (('a', 'student_1'), ('a', 'student_2'))
    found = estimate(
        counts_of(tables), 'IoU', [MEAN, Contrast(ENSEMBLE, competitors)], resamples=40
    )
    rng = np.random.default_rng(0)
    seeds, groups = rng.integers(0, 3, (40, 3)), rng.integers(0, 3, (40, 3))
    names = np.array(['x', 'y', 'z'])
    best = []
    for index, (drawn_seeds, drawn) in enumerate(zip(seeds, names[groups], strict=True)):
        ensemble, one, two = (
            resampled_iou(tables, member, drawn_seeds, drawn)
            for member in ('ensemble', 'student_1', 'student_2')
        )
        assert found[0].distribution[index] == pytest.approx(ensemble)
        assert found[1].distribution[index] == pytest.approx(ensemble - max(one, two))
        best.append(one > two)
    assert 0 < sum(best) < 40  # otherwise the maximum is not tested
    ensemble, one, two = (
        resampled_iou(tables, member, range(3), names)
        for member in ('ensemble', 'student_1', 'student_2')
    )
    assert found[1].value == pytest.approx(ensemble - max(one, two))
    assert found[1].resampled == ('seeds', 'groups')
    low, high = np.percentile(found[1].distribution, [2.5, 97.5])
    assert (found[1].low, found[1].high) == pytest.approx((low, high))


def test_shared_variation_cancels_in_a_difference():
    # Each seed of b has the errors of a and one more in every group.
    rng = np.random.default_rng(2)
    groups = np.repeat([f'g{index}' for index in range(12)], 10)
    tables = {}
    for seed in range(3):
        correct = (rng.random(120) < rng.uniform(0.4, 0.9)) | (np.arange(120) % 10 == 0)
        worse = correct & (np.arange(120) % 10 > 0)
        tables['a', seed] = [classified(correct, groups=groups)]
        tables['b', seed] = [classified(worse, groups=groups)]
    mean, difference = estimate(counts_of(tables), 'accuracy', [MEAN, DIFFERENCE])
    assert mean.high - mean.low > 5
    assert difference.distribution == pytest.approx(np.full(9999, 10))
    assert (difference.value, difference.low, difference.high) == pytest.approx((10, 10, 10))
    assert difference.p == pytest.approx(2 / 10000)


def test_variance_of_resampled_seeds():
    tables = {('a', seed): [classified([1] * seed + [0] * (8 - seed))] for seed in (2, 3, 7)}
    for (cases,) in tables.values():
        cases['group'] = 'single'
    (found,) = estimate(counts_of(tables), 'accuracy', [MEAN])
    assert found.resampled == ('seeds',)
    scores = np.array([2, 3, 7]) / 8 * 100
    assert found.distribution.var() == pytest.approx(scores.var() / 3, rel=0.05)
    assert set(np.round(found.distribution, 6)) == {
        round(float(np.mean(draw)), 6)
        for draw in np.stack(np.meshgrid(scores, scores, scores), -1).reshape(-1, 3)
    }


@pytest.mark.parametrize(('sign', 'expected'), [(1, 2 / 1000), (-1, 2 / 1000), (0, 1.0)])
def test_extreme_p_values(sign, expected):
    sides = {0: ([1, 0, 1], [1, 0, 1]), 1: ([1, 1, 1], [0, 0, 0]), -1: ([0, 0, 0], [1, 1, 1])}
    first, second = sides[sign]
    both = counts_of({('a', 0): [classified(first)], ('b', 0): [classified(second)]})
    (found,) = estimate(both, 'accuracy', [DIFFERENCE], resamples=999)
    assert found.p == pytest.approx(expected)


def test_p_value_is_twice_the_smaller_tail():
    (found,) = estimate(counts_of(random_tables()), 'accuracy', [DIFFERENCE], resamples=499)
    values = found.distribution.round(6)
    below, above = (values <= 0).sum(), (values >= 0).sum()
    assert 0 < min(below, above) < 249
    assert found.p == pytest.approx(2 * (min(below, above) + 1) / 500)


def test_estimate_depends_on_the_random_seed_and_not_on_other_contrasts():
    both = counts_of(random_tables(names=('a', 'b', 'c')))
    others = [Contrast((name, 'ensemble')) for name in 'cba']
    (single,) = estimate(both, 'accuracy', [DIFFERENCE])
    among = estimate(both, 'accuracy', [*others, DIFFERENCE])[-1]
    np.testing.assert_array_equal(single.distribution, among.distribution)
    (other,) = estimate(both, 'accuracy', [DIFFERENCE], rng=1)
    assert (single.distribution != other.distribution).any()
    assert (single.low, single.high) == pytest.approx(
        (other.low, other.high), abs=1.2
    )  # a step is 1.1


def test_difference_uses_only_shared_seeds():
    tables = random_tables()
    without = {key: cases for key, cases in tables.items() if key != ('b', 1)}
    (found,) = estimate(counts_of(without), 'accuracy', [DIFFERENCE])
    difference = [
        100 * (tables['a', seed][0]['pred'].mean() - tables['b', seed][0]['pred'].mean())
        for seed in (0, 2)
    ]
    assert found.seeds == (0, 2)
    assert found.value == pytest.approx(np.mean(difference))


def test_higher_confidence_widens_the_interval():
    both = counts_of(random_tables())
    (narrow,), (wide,) = (
        estimate(both, 'accuracy', [MEAN], confidence=level) for level in (0.5, 0.99)
    )
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_memory_is_bounded_by_the_batch(monkeypatch):
    rows = []

    def spy(self, counts):
        rows.append(len(counts))
        return value(self, counts)

    value = measures.Measure.value
    monkeypatch.setattr(measures.Measure, 'value', spy)
    estimate(counts_of(random_tables(1, images=30000)), 'accuracy', [MEAN], resamples=150)
    assert max(rows) * 30000 <= 2**21
    assert sum(rows) == 150 + 1  # and the original value


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({('b', 0): None, ('b', 1): None}, r'no finished run of b has a member ensemble'),
        ({('b', 0): None, ('a', 1): None}, r'no seed is shared: a has \[0\], b has \[1\]'),
        ({('b', 1): 29}, r'a \(seed 0\) and b \(seed 1\) were tested on different cases: 1 '),
        ({('a', 1): 28}, r'a \(seed 0\) and a \(seed 1\) were tested on different cases: 2 '),
    ],
)
def test_reason_of_undefined_difference(changes, reason):
    tables = random_tables(seeds=2)
    for key, images in changes.items():
        cases = tables.pop(key)
        if images is not None:
            tables[key] = [cases[0][:images]]
    found, same = estimate(
        counts_of(tables), 'accuracy', [DIFFERENCE, Contrast(ENSEMBLE, (ENSEMBLE,))]
    )
    assert re.match(reason, found.undefined_reason)
    assert np.isnan([found.value, found.low, found.high, found.p]).all()
    assert not found.distribution.size
    # Other contrasts are not affected.
    assert (same.undefined_reason == '') == (('a', 1) not in changes or changes['a', 1] is None)


def test_one_seed_and_one_group_have_no_interval():
    one = classified([1, 0, 1, 1]).assign(group='patient')
    (found,) = estimate(counts_of({('a', 0): [one]}), 'accuracy', [MEAN])
    assert found.value == 75
    assert np.isnan([found.low, found.high]).all()
    assert found.undefined_reason == 'only one seed and one group of cases to resample'


def test_undefined_resamples_are_counted():
    # Group x has no foreground: IoU is 0 / 0 if only x is drawn.
    cases = pd.DataFrame(
        dict(member='ensemble', id=['i', 'j'], group=['x', 'y'], label=1, tp=[0, 5], fp=0, fn=0)
    )
    (found,) = estimate(counts_of({('a', 0): [cases]}), 'IoU', [MEAN], resamples=400)
    assert found.value == 100
    assert np.isnan([found.low, found.high]).all()
    undefined = int(found.undefined_reason.removeprefix('IoU is undefined in ').split()[0])
    assert found.undefined_reason.endswith(' of 400 resamples')
    assert undefined == pytest.approx(100, abs=35)  # a quarter: both draws are x


def test_invalid_arguments_raise():
    both = counts_of(random_tables())
    for wrong in (dict(confidence=1), dict(confidence=0), dict(resamples=0)):
        with pytest.raises(ValueError, match=f'{[*wrong][0]}={[*wrong.values()][0]}'):
            estimate(both, 'accuracy', [MEAN], **wrong)
    with pytest.raises(ValueError, match='IoU: .* of classification'):
        estimate(both, 'IoU', [MEAN])


def test_arguments_are_not_modified():
    tables = random_tables()
    both = counts_of(tables)
    before = {
        entry: {seed: dataclasses.replace(s, counts=s.counts.copy()) for seed, s in by_seed.items()}
        for entry, by_seed in both.by_entry.items()
    }
    estimate(both, 'accuracy', [MEAN])
    for entry, by_seed in before.items():
        for seed, sample in by_seed.items():
            np.testing.assert_array_equal(both.by_entry[entry][seed].counts, sample.counts)
    for cases, again in zip(tables.values(), random_tables().values(), strict=True):
        pd.testing.assert_frame_equal(cases[0], again[0])


def test_large_test_split_is_resampled_at_once():
    """3000 groups and 7 classes, which would take minutes one resample after the other."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, 3000)
    pred = np.where(rng.random(3000) < 0.8, truth, rng.permutation(truth))
    cases = classified(truth).assign(truth=truth, pred=pred)
    (found,) = estimate(counts_of({('a', 0): [cases]}), 'recall', [MEAN])
    correct = cases['truth'] == cases['pred']
    assert found.value == pytest.approx(100 * correct.groupby(cases['truth']).mean().mean())
    # About 4 standard errors of a share of 3000 independent images.
    error = 100 * np.sqrt(correct.mean() * (1 - correct.mean()) / 3000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_ties_count_in_both_tails_despite_rounding_errors():
    # Both have the same scores in another order of seeds: equal if each seed is drawn once.
    correct = {'a': (1, 2, 4), 'b': (4, 1, 2)}
    tables = {
        (name, seed): [classified([1] * many + [0] * (7 - many)).assign(group='only')]
        for name, by_seed in correct.items()
        for seed, many in enumerate(by_seed)
    }
    (found,) = estimate(counts_of(tables), 'accuracy', [DIFFERENCE], resamples=999)
    draws = np.random.default_rng(0).integers(0, 3, (999, 3))
    exact = (np.array(correct['a']) - np.array(correct['b']))[draws].sum(1)
    tail = min((exact <= 0).sum(), (exact >= 0).sum())
    assert found.p == pytest.approx(min(1, 2 * (tail + 1) / 1000))


def test_resamples_are_drawn_in_batches_of_1000():
    """The size of a batch decides the random numbers, so published intervals depend on it."""
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
