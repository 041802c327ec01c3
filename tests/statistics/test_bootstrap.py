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


def right_or_wrong(right, member='ensemble', groups=None):
    """Answers of one member about images of class 1; each image a group unless told."""
    right = np.asarray(right, int)
    ids = [f'i{index}' for index in range(len(right))]
    return pd.DataFrame(
        dict(member=member, id=ids, group=ids if groups is None else groups, truth=1, pred=right)
    )


def counts_of(tables):
    """Counts of ``{(name, seed): case table or tables}``."""
    runs = [
        RunRecord(
            name, seed, 'ml', 'v1', 'done', measured={'best': Measurement({}, pd.concat(cases))}
        )
        for (name, seed), cases in tables.items()
    ]
    return count_cases(SuiteRecord('s', 'S', ('accuracy',), (), runs), 'best')


def answers(seeds=3, images=30, names=('a', 'b'), accuracy=0.7):
    rng = np.random.default_rng(7)
    return {
        (name, seed): [right_or_wrong(rng.random(images) < accuracy)]
        for name in names
        for seed in range(seeds)
    }


def segmented(seeds=3):
    """IoU does not come from means over groups, so its resamples must add pixels."""
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


def test_one_seed_of_single_images_is_scipys_bootstrap_of_the_mean():
    cases = right_or_wrong(np.random.default_rng(0).random(40) < 0.7)
    (found,) = estimate(counts_of({('a', 5): [cases]}), 'accuracy', [Contrast(ENSEMBLE)])
    by_name = cases.sort_values('group')['pred'].to_numpy()
    expected = bootstrap((100.0 * by_name,), np.mean, batch=1000, method='percentile', rng=0)
    np.testing.assert_allclose(found.distribution, expected.bootstrap_distribution)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval))
    assert found.value == pytest.approx(100 * by_name.mean())
    assert (found.seeds, found.groups, found.resampled) == ((5,), 40, ('groups',))
    assert np.isnan(found.p)
    assert found.problem == ''


def drawn_again(tables, member, seeds, groups):
    """Mean IoU over drawn seeds, from case tables in which drawn groups are there as often."""
    scores = []
    for seed in seeds:
        cases = pd.concat(one for one in tables['a', seed] if one['member'].iloc[0] == member)
        pixels = pd.concat([cases[cases['group'] == group] for group in groups])
        sums = pixels.groupby('label')[['tp', 'fp', 'fn']].sum()
        scores.append(100 * (sums['tp'] / sums.sum(axis=1)).mean())
    return np.mean(scores)


def test_seeds_and_groups_are_drawn_crossed_and_the_best_rival_each_time():
    tables = segmented()
    rivals = (('a', 'student_1'), ('a', 'student_2'))
    found = estimate(
        counts_of(tables), 'IoU', [Contrast(ENSEMBLE), Contrast(ENSEMBLE, rivals)], resamples=40
    )
    rng = np.random.default_rng(0)
    seeds, groups = rng.integers(0, 3, (40, 3)), rng.integers(0, 3, (40, 3))
    names = np.array(['x', 'y', 'z'])
    best = []
    for index, (drawn_seeds, drawn) in enumerate(zip(seeds, names[groups], strict=True)):
        ensemble, one, two = (
            drawn_again(tables, member, drawn_seeds, drawn)
            for member in ('ensemble', 'student_1', 'student_2')
        )
        assert found[0].distribution[index] == pytest.approx(ensemble)
        assert found[1].distribution[index] == pytest.approx(ensemble - max(one, two))
        best.append(one > two)
    assert 0 < sum(best) < 40  # else the maximum would not be put to the test
    ensemble, one, two = (
        drawn_again(tables, member, range(3), names)
        for member in ('ensemble', 'student_1', 'student_2')
    )
    assert found[1].value == pytest.approx(ensemble - max(one, two))
    assert found[1].resampled == ('seeds', 'groups')
    low, high = np.percentile(found[1].distribution, [2.5, 97.5])
    assert (found[1].low, found[1].high) == pytest.approx((low, high))


def test_what_both_sides_share_leaves_no_trace_in_a_difference():
    # Each seed of b is wrong where a is, and on one image more in every group.
    rng = np.random.default_rng(2)
    groups = np.repeat([f'g{index}' for index in range(12)], 10)
    tables = {}
    for seed in range(3):
        right = (rng.random(120) < rng.uniform(0.4, 0.9)) | (np.arange(120) % 10 == 0)
        worse = right & (np.arange(120) % 10 > 0)
        tables['a', seed] = [right_or_wrong(right, groups=groups)]
        tables['b', seed] = [right_or_wrong(worse, groups=groups)]
    alone, difference = estimate(
        counts_of(tables),
        'accuracy',
        [Contrast(ENSEMBLE), Contrast(ENSEMBLE, (('b', 'ensemble'),))],
    )
    assert alone.high - alone.low > 5
    assert difference.distribution == pytest.approx(np.full(9999, 10))
    assert (difference.value, difference.low, difference.high) == pytest.approx((10, 10, 10))
    assert difference.p == pytest.approx(2 / 10000)


def test_seeds_alone_vary_as_their_mean_should():
    tables = {('a', seed): [right_or_wrong([1] * seed + [0] * (8 - seed))] for seed in (2, 3, 7)}
    for (cases,) in tables.values():
        cases['group'] = 'only'
    (found,) = estimate(counts_of(tables), 'accuracy', [Contrast(ENSEMBLE)])
    assert found.resampled == ('seeds',)
    scores = np.array([2, 3, 7]) / 8 * 100
    assert found.distribution.var() == pytest.approx(scores.var() / 3, rel=0.05)
    assert set(np.round(found.distribution, 6)) == {
        round(float(np.mean(draw)), 6)
        for draw in np.stack(np.meshgrid(scores, scores, scores), -1).reshape(-1, 3)
    }


@pytest.mark.parametrize(('sign', 'expected'), [(1, 2 / 1000), (-1, 2 / 1000), (0, 1.0)])
def test_p_values_at_the_ends(sign, expected):
    sides = {0: ([1, 0, 1], [1, 0, 1]), 1: ([1, 1, 1], [0, 0, 0]), -1: ([0, 0, 0], [1, 1, 1])}
    better, other = sides[sign]
    both = counts_of({('a', 0): [right_or_wrong(better)], ('b', 0): [right_or_wrong(other)]})
    contrast = Contrast(ENSEMBLE, (('b', 'ensemble'),))
    (found,) = estimate(both, 'accuracy', [contrast], resamples=999)
    assert found.p == pytest.approx(expected)


def test_p_value_counts_the_smaller_tail_twice():
    contrast = Contrast(ENSEMBLE, (('b', 'ensemble'),))
    (found,) = estimate(counts_of(answers()), 'accuracy', [contrast], resamples=499)
    values = found.distribution.round(6)
    below, above = (values <= 0).sum(), (values >= 0).sum()
    assert 0 < min(below, above) < 249
    assert found.p == pytest.approx(2 * (min(below, above) + 1) / 500)


def test_an_answer_depends_on_the_random_seed_alone():
    both = counts_of(answers(names=('a', 'b', 'c')))
    contrast = Contrast(ENSEMBLE, (('b', 'ensemble'),))
    others = [Contrast((name, 'ensemble')) for name in 'cba']
    (alone,) = estimate(both, 'accuracy', [contrast])
    among = estimate(both, 'accuracy', [*others, contrast])[-1]
    np.testing.assert_array_equal(alone.distribution, among.distribution)
    (other,) = estimate(both, 'accuracy', [contrast], rng=1)
    assert (alone.distribution != other.distribution).any()
    assert (alone.low, alone.high) == pytest.approx(
        (other.low, other.high), abs=1.2
    )  # a step is 1.1


def test_only_shared_seeds_count():
    tables = answers()
    without = {key: cases for key, cases in tables.items() if key != ('b', 1)}
    contrast = Contrast(ENSEMBLE, (('b', 'ensemble'),))
    (found,) = estimate(counts_of(without), 'accuracy', [contrast])
    difference = [
        100 * (tables['a', seed][0]['pred'].mean() - tables['b', seed][0]['pred'].mean())
        for seed in (0, 2)
    ]
    assert found.seeds == (0, 2)
    assert found.value == pytest.approx(np.mean(difference))


def test_a_wider_confidence_gives_a_wider_interval():
    both = counts_of(answers())
    (narrow,), (wide,) = (
        estimate(both, 'accuracy', [Contrast(ENSEMBLE)], confidence=level) for level in (0.5, 0.99)
    )
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_memory_is_bounded_by_the_batch(monkeypatch):
    rows = []

    def spying(self, counts):
        rows.append(len(counts))
        return value(self, counts)

    value = measures.Measure.value
    monkeypatch.setattr(measures.Measure, 'value', spying)
    estimate(counts_of(answers(1, images=30000)), 'accuracy', [Contrast(ENSEMBLE)], resamples=150)
    assert max(rows) * 30000 <= 2**21
    assert sum(rows) == 150 + 1  # and the value itself


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ({('b', 0): None, ('b', 1): None}, r'no finished run of b tells of ensemble'),
        ({('b', 0): None, ('a', 1): None}, r'no seed is shared: a has \[0\], b has \[1\]'),
        ({('b', 1): 29}, r'a \(seed 0\) and b \(seed 1\) were tested on different cases: 1 are in'),
        ({('a', 1): 28}, r'a \(seed 0\) and a \(seed 1\) were tested on different cases: 2 are in'),
    ],
)
def test_says_why_a_difference_is_not_computable(changes, problem):
    tables = answers(seeds=2)
    for key, images in changes.items():
        cases = tables.pop(key)
        if images is not None:
            tables[key] = [cases[0][:images]]
    found, same = estimate(
        counts_of(tables),
        'accuracy',
        [
            Contrast(ENSEMBLE, (('b', 'ensemble'),)),
            Contrast(('a', 'ensemble'), (('a', 'ensemble'),)),
        ],
    )
    assert re.match(problem, found.problem)
    assert np.isnan([found.value, found.low, found.high, found.p]).all()
    assert not found.distribution.size
    # What can be computed beside it still is.
    assert (same.problem == '') == (('a', 1) not in changes or changes['a', 1] is None)


def test_one_seed_and_one_group_have_a_value_and_no_interval():
    one = right_or_wrong([1, 0, 1, 1]).assign(group='patient')
    (found,) = estimate(counts_of({('a', 0): [one]}), 'accuracy', [Contrast(ENSEMBLE)])
    assert found.value == 75
    assert np.isnan([found.low, found.high]).all()
    assert found.problem == 'one seed and 1 group of cases leave nothing to draw from'


def test_an_undefined_resample_is_told_of():
    # In x there is nothing and nothing is said: IoU is 0 / 0 if x alone is drawn.
    cases = pd.DataFrame(
        dict(member='ensemble', id=['i', 'j'], group=['x', 'y'], label=1, tp=[0, 5], fp=0, fn=0)
    )
    (found,) = estimate(counts_of({('a', 0): [cases]}), 'IoU', [Contrast(ENSEMBLE)], resamples=400)
    assert found.value == 100
    assert np.isnan([found.low, found.high]).all()
    undefined = int(found.problem.removeprefix('IoU is undefined in ').split()[0])
    assert found.problem.endswith(' of 400 resamples')
    assert undefined == pytest.approx(100, abs=35)  # a quarter: both draws are x


def test_refuses_what_makes_no_interval():
    both = counts_of(answers())
    for wrong in (dict(confidence=1), dict(confidence=0), dict(resamples=0)):
        with pytest.raises(ValueError, match='confidence between 0 and 1 and at least 1 resample'):
            estimate(both, 'accuracy', [Contrast(ENSEMBLE)], **wrong)
    with pytest.raises(ValueError, match='IoU is a measure of segmentation'):
        estimate(both, 'IoU', [Contrast(ENSEMBLE)])


def test_tables_and_counts_are_not_changed():
    tables = answers()
    both = counts_of(tables)
    before = {
        entry: {seed: dataclasses.replace(s, counts=s.counts.copy()) for seed, s in by_seed.items()}
        for entry, by_seed in both.samples.items()
    }
    estimate(both, 'accuracy', [Contrast(ENSEMBLE)])
    for entry, by_seed in before.items():
        for seed, sample in by_seed.items():
            np.testing.assert_array_equal(both.samples[entry][seed].counts, sample.counts)
    for cases, again in zip(tables.values(), answers().values(), strict=True):
        pd.testing.assert_frame_equal(cases[0], again[0])


def test_a_large_test_part_takes_no_minutes():
    """3000 groups and 7 classes; drawing them one after the other would take minutes."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, 3000)
    pred = np.where(rng.random(3000) < 0.8, truth, rng.permutation(truth))
    cases = right_or_wrong(truth).assign(truth=truth, pred=pred)
    (found,) = estimate(counts_of({('a', 0): [cases]}), 'recall', [Contrast(ENSEMBLE)])
    right = cases['truth'] == cases['pred']
    assert found.value == pytest.approx(100 * right.groupby(cases['truth']).mean().mean())
    # Of independent images, near 4 standard errors of a share of 3000.
    error = 100 * np.sqrt(right.mean() * (1 - right.mean()) / 3000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_ties_count_on_both_sides_whatever_the_rounding():
    # The sides have the same scores in another order of seeds: drawn once each, they are equal.
    right = {'a': (1, 2, 4), 'b': (4, 1, 2)}
    tables = {
        (name, seed): [right_or_wrong([1] * many + [0] * (7 - many)).assign(group='only')]
        for name, by_seed in right.items()
        for seed, many in enumerate(by_seed)
    }
    contrast = Contrast(ENSEMBLE, (('b', 'ensemble'),))
    (found,) = estimate(counts_of(tables), 'accuracy', [contrast], resamples=999)
    draws = np.random.default_rng(0).integers(0, 3, (999, 3))
    exact = (np.array(right['a']) - np.array(right['b']))[draws].sum(1)
    tail = min((exact <= 0).sum(), (exact >= 0).sum())
    assert found.p == pytest.approx(min(1, 2 * (tail + 1) / 1000))
