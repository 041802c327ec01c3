import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from mmkdml.metric_info import METRIC_INFOS, MetricInfo
from mmkdml.statistics.bootstrap import Contrast, estimate
from mmkdml.statistics.counts import CaseCounts, Counts
from mmkdml.statistics.measures import MEASURES, Measure

ENSEMBLE = ('a', 'ensemble')
MEAN, DIFFERENCE = Contrast(ENSEMBLE), Contrast(ENSEMBLE, (('b', 'ensemble'),))
NAMES = 'abcdefg'


def accuracies(tables):
    """Accuracy by run, (M, S), and without each image, (M, S, G), from case tables."""
    names, seeds = (sorted({key[place] for key in tables}) for place in (0, 1))
    correct = np.array(
        [[tables[name, seed][0].sort_values('group')['pred'] for seed in seeds] for name in names]
    )
    images = correct.shape[-1]
    without = (correct.sum(-1, keepdims=True) - correct) / (images - 1)
    return 100 * correct.mean(-1), 100 * without


def residual_mean_square(values):
    """Mean square of the interaction of a two-way analysis of variance, by its definition."""
    rows, columns = values.shape
    total = sum(
        (values[m, s] - values[m].mean() - values[:, s].mean() + values.mean()) ** 2
        for m in range(rows)
        for s in range(columns)
    )
    return total / ((rows - 1) * (columns - 1))


def test_difference_is_tested_with_the_pooled_seed_variance(random_tables, counts_of):
    tables = random_tables(names=NAMES)
    (found,) = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])
    values, without = accuracies(tables)
    difference, left_out = values[0] - values[1], without[0] - without[1]  # (S,), (S, G)
    covariance = np.cov(left_out, ddof=0) * (30 - 1)
    off_diagonal = covariance[~np.eye(3, dtype=bool)].mean()
    seeds = max(difference.var(ddof=1), 2 * residual_mean_square(values)) / 3
    cases = max(off_diagonal, 0)
    assert found.value == pytest.approx(difference.mean())
    assert found.seed_variance == pytest.approx(3 * seeds)
    assert found.case_variance == pytest.approx(cases)
    df = (seeds + cases) ** 2 / (seeds**2 / (6 * 2) + cases**2 / 29)
    assert (found.df, found.runs) == (pytest.approx(df), 7)
    error = math.sqrt(seeds + cases)
    assert found.p == pytest.approx(2 * t.sf(abs(found.value) / error, df))
    ends = found.value + np.array([-1, 1]) * t.ppf(0.975, df) * error
    assert (found.low, found.high) == pytest.approx(tuple(ends))
    assert found.interval(0.95) == (found.low, found.high)


def test_few_runs_use_the_more_cautious_of_two_tests(random_tables, counts_of):
    tables = random_tables(names='abcd')
    (found,) = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])
    values, _ = accuracies(tables)
    difference = values[0] - values[1]
    own = difference.var(ddof=1) / 3
    over_seeds = 2 * t.sf(abs(difference.mean()) / math.sqrt(own), 2)
    total = own + found.case_variance
    df = total**2 / (own**2 / 2 + found.case_variance**2 / 29)
    with_cases = 2 * t.sf(abs(difference.mean()) / math.sqrt(total), df)
    assert found.p == pytest.approx(max(over_seeds, with_cases))
    assert found.runs == 0
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_runs_without_the_shared_seeds_or_cases_are_not_pooled(random_tables, counts_of):
    tables = random_tables(names=NAMES)
    complete = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])[0]
    del tables['g', 1]
    (unbalanced,) = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])
    assert (complete.runs, unbalanced.runs) == (7, 6)
    tables['f', 0] = [tables['f', 0][0][:20]]
    assert estimate(counts_of(tables), 'accuracy', [DIFFERENCE])[0].runs == 5
    for seed in range(3):
        tables['e', seed] = tables['d', seed]
    equal = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])[0]
    assert equal.runs == 0  # four different runs are left


def test_members_are_pooled_by_kind(classified, counts_of):
    rng = np.random.default_rng(3)
    spread = dict(ensemble=0.02, teacher=0.02, student_1=0.2)
    tables = {
        (name, seed): [
            classified(np.arange(200) < 200 * (0.7 + sd * rng.normal()), member)
            for member, sd in spread.items()
        ]
        for name in NAMES
        for seed in range(3)
    }
    contrasts = [
        Contrast(('a', member), (('b', member),)) for member in ('ensemble', 'student_1')
    ] + [Contrast(('a', 'ensemble'), (('a', 'student_1'),))]
    ensembles, students, both = estimate(counts_of(tables), 'accuracy', contrasts)
    assert students.seed_variance > 20 * ensembles.seed_variance
    assert (ensembles.df < 13, both.runs) == (True, 7)
    # Two members of one run: variance of their difference in all runs, or its own
    correct = {
        (name, member): [
            one['pred'].mean() * 100
            for seed in range(3)
            for one in tables[name, seed]
            if one['member'].iloc[0] == member
        ]
        for name in NAMES
        for member in ('ensemble', 'student_1')
    }
    differences = [
        np.subtract(correct[name, 'ensemble'], correct[name, 'student_1']) for name in NAMES
    ]
    expected = max(differences[0].var(ddof=1), np.var(differences, axis=1, ddof=1).mean())
    assert both.seed_variance == pytest.approx(expected)


@pytest.mark.parametrize(
    ('seeds', 'names', 'reason'),
    [
        (1, NAMES, '1 seed'),
        (2, NAMES, ''),
        (2, 'ab', '2 seeds of 2 runs'),
        (2, 'abcd', '2 seeds of 4 runs'),
        (3, 'ab', ''),
    ],
)
def test_reason_of_an_undecided_difference(seeds, names, reason, random_tables, counts_of):
    (found,) = estimate(counts_of(random_tables(seeds, names=names)), 'accuracy', [DIFFERENCE])
    assert found.undecided_reason == reason
    assert found.undefined_reason == ''
    assert math.isnan(found.p) == bool(reason)
    assert found.low < found.value < found.high
    assert found.resampled == (('seeds', 'groups') if seeds > 1 else ('groups',))


def test_two_seeds_need_a_pooled_variance_of_each_competitor(random_tables, classified, counts_of):
    """The student, which only one run has, differs far more than the run with the tested value."""
    tables = random_tables(2, names=NAMES)
    for seed in range(2):
        tables['a', seed].append(classified([0] * 29 + [seed], 'student_1'))
    student = ('a', 'student_1')
    single, several = estimate(
        counts_of(tables),
        'accuracy',
        [DIFFERENCE, Contrast(DIFFERENCE.entry, (*DIFFERENCE.competitors, student))],
    )
    assert single.value == several.value
    assert single.undecided_reason == ''
    assert several.undecided_reason == '2 seeds of 1 run'


def test_one_group_is_undecided_with_an_interval_over_seeds(random_tables, counts_of):
    tables = random_tables()
    for (cases,) in tables.values():
        cases['group'] = 'patient'
    (found,) = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])
    values, _ = accuracies(tables)
    difference = values[0] - values[1]
    width = t.ppf(0.975, 2) * difference.std(ddof=1) / math.sqrt(3)
    assert (found.undecided_reason, found.resampled) == ('1 group', ('seeds',))
    assert (found.low, found.high) == pytest.approx((found.value - width, found.value + width))
    assert math.isnan(found.case_variance)


def test_equal_runs_are_a_tie_and_constant_differences_are_not_tested(classified, counts_of):
    same = classified([1, 0, 1, 1])
    tables = {(name, seed): [same] for name in 'ab' for seed in range(3)}
    (tied,) = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])
    assert (tied.value, tied.low, tied.high, tied.p, tied.undecided_reason) == (0, 0, 0, 1, '')
    for seed in range(3):
        tables['a', seed] = [classified([1] * 4)]
        tables['b', seed] = [classified([0] * 4)]
    (constant,) = estimate(counts_of(tables), 'accuracy', [DIFFERENCE])
    assert (constant.value, constant.undecided_reason) == (100, 'no variation')
    assert math.isnan(constant.p)


def test_several_competitors_are_an_intersection_of_tests(random_tables, counts_of):
    counts = counts_of(random_tables(names=NAMES))
    better, worse = sorted(
        ((name, 'ensemble') for name in NAMES[1:]),
        key=lambda entry: np.mean(list(counts.scores('accuracy')[entry].values())),
    )[::5]
    single = estimate(counts, 'accuracy', [Contrast(ENSEMBLE, (one,)) for one in (better, worse)])
    (both,) = estimate(counts, 'accuracy', [Contrast(ENSEMBLE, (better, worse))])
    assert both.value == min(one.value for one in single)
    assert both.low == min(one.low for one in single)
    assert both.high == pytest.approx(min(one.interval(0.975)[1] for one in single))
    expected = max(one.p for one in single)
    if both.value < 0:
        expected = min(1, 2 * min(one.p for one in single if one.value < 0))
    assert both.p == pytest.approx(expected)


def test_mean_has_a_t_interval_on_the_logit_scale(classified, counts_of):
    cases = classified([1] * 36 + [0] * 4)
    (found,) = estimate(counts_of({('a', 0): [cases]}), 'accuracy', [MEAN])
    error = math.sqrt(0.9 * 0.1 / 39)  # of the mean of 40 zeros and ones
    ends = logit(0.9) + np.array([-1, 1]) * t.ppf(0.975, 39) * error / (0.9 * 0.1)
    assert (found.low, found.high) == pytest.approx(tuple(100 * expit(ends)))
    assert found.high < 100
    assert math.isnan(found.p)
    assert found.undecided_reason == ''


@pytest.mark.parametrize('correct', [0, 1])
def test_mean_of_0_or_100_percent_has_no_interval(correct, classified, counts_of):
    (found,) = estimate(counts_of({('a', 0): [classified([correct] * 9)]}), 'accuracy', [MEAN])
    assert found.value == 100 * correct
    assert np.isnan([found.low, found.high]).all()
    assert found.undefined_reason == f'accuracy is {100 * correct} % for all seeds and groups'


def test_measure_that_is_better_when_lower_and_has_no_bounds(monkeypatch):
    """Any measure works, from its value and sums: here the mean distance of cases in mm."""
    monkeypatch.setitem(MEASURES, 'HD', Measure('HD', ('',), lambda total, fp, fn: total[..., 0]))
    monkeypatch.setattr(
        Measure, 'value', lambda self, summed: summed[..., 0, 0] / summed[..., 1, 0]
    )
    monkeypatch.setitem(METRIC_INFOS, 'HD', MetricInfo('HD', 'HD', 'mm', False))
    rng = np.random.default_rng(0)
    cases = frozenset((f'i{g}', f'g{g}') for g in range(12))
    distances = {'a': rng.gamma(2, 2, (3, 12)), 'b': rng.gamma(2, 2, (3, 12)) + 90}

    def counted(values):
        sums = np.stack([values, np.ones(12), np.zeros(12)], 1)[..., None]
        return CaseCounts(cases, sums)

    counts = Counts(
        '',
        {(name, 'ensemble'): {s: counted(by_seed[s]) for s in range(3)}
         for name, by_seed in distances.items()},
    )  # fmt: skip
    mean, difference = estimate(counts, 'HD', [MEAN, DIFFERENCE])
    assert mean.value == pytest.approx(distances['a'].mean())
    assert mean.value - mean.low == pytest.approx(mean.high - mean.value)
    assert difference.value == pytest.approx(distances['b'].mean() - distances['a'].mean())
    assert difference.low > 0


def test_one_seed_and_one_group_have_no_interval(classified, counts_of):
    one = classified([1, 0, 1, 1]).assign(group='patient')
    (found,) = estimate(counts_of({('a', 0): [one]}), 'accuracy', [MEAN])
    assert found.value == 75
    assert np.isnan([found.low, found.high]).all()
    assert found.undefined_reason == 'only one seed and one group of cases'


def test_measure_that_is_undefined_without_a_group_has_no_interval(counts_of):
    # Only group y has foreground.
    cases = pd.DataFrame(
        dict(
            member='ensemble', id=['i', 'j'], group=['x', 'y'], label=1, tp=[0, 5], fp=0, fn=[0, 1]
        )
    )
    (found,) = estimate(counts_of({('a', 0): [cases]}), 'IoU', [MEAN])
    assert found.value == pytest.approx(100 * 5 / 6)
    assert np.isnan([found.low, found.high]).all()
    assert found.undefined_reason == 'IoU is undefined without 1 of 2 groups'


def test_invalid_arguments_raise(random_tables, counts_of):
    both = counts_of(random_tables())
    for wrong in (dict(confidence=1), dict(confidence=0), dict(resamples=-1)):
        with pytest.raises(ValueError, match=f'{[*wrong][0]}={[*wrong.values()][0]}'):
            estimate(both, 'accuracy', [MEAN], **wrong)
    with pytest.raises(ValueError, match='IoU: .* of classification'):
        estimate(both, 'IoU', [MEAN])


def test_difference_uses_only_shared_seeds(random_tables, counts_of):
    tables = random_tables()
    without = {key: cases for key, cases in tables.items() if key != ('b', 1)}
    (found,) = estimate(counts_of(without), 'accuracy', [DIFFERENCE])
    difference = [
        100 * (tables['a', seed][0]['pred'].mean() - tables['b', seed][0]['pred'].mean())
        for seed in (0, 2)
    ]
    assert found.seeds == (0, 2)
    assert found.value == pytest.approx(np.mean(difference))


def test_higher_confidence_widens_the_interval(random_tables, counts_of):
    both = counts_of(random_tables())
    (narrow,), (wide,) = (
        estimate(both, 'accuracy', [MEAN], confidence=level) for level in (0.5, 0.99)
    )
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({('b', 0): None, ('b', 1): None}, r'no finished run of b has a member ensemble'),
        ({('b', 0): None, ('a', 1): None}, r'no seed is shared: a has \[0\], b has \[1\]'),
        ({('b', 1): 29}, r'a \(seed 0\) and b \(seed 1\) were tested on different cases: 1 '),
        ({('a', 1): 28}, r'a \(seed 0\) and a \(seed 1\) were tested on different cases: 2 '),
    ],
)
def test_reason_of_undefined_difference(changes, reason, random_tables, counts_of):
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


def test_arguments_are_not_modified(random_tables, counts_of):
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


def test_large_test_split_is_estimated_at_once(classified, counts_of):
    """3000 groups and 7 classes, which would take minutes one group after the other."""
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


def segmented(shift, groups=6):
    """Case tables of two members; groups differ in difficulty and number of images."""
    rng = np.random.default_rng(shift)
    rows = [
        (
            member,
            f'{group}/{image}',
            f'g{group}',
            1,
            *rng.integers(1, (200 * group + 9, 50 + shift, 50)),
        )
        for member in ('student_1', 'ensemble')
        for group in range(groups)
        for image in range(group + 1)
    ]
    return pd.DataFrame(rows, columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'])


def mean_iou(cases):
    tp, fp, fn = (cases[name].sum() for name in ('tp', 'fp', 'fn'))
    return 100 * tp / (tp + fp + fn)


def test_part_of_the_cases_is_the_jackknife_covariance_of_the_case_tables(counts_of):
    """Each group of patients is removed from the tables, which are scored again."""
    tables = {
        (name, seed): [segmented(10 * seed + (name == 'b'))] for name in 'ab' for seed in (0, 1)
    }
    names = sorted(set(segmented(0)['group']))
    found = dict(
        zip(('mean', 'other'), estimate(counts_of(tables), 'IoU', [MEAN, DIFFERENCE]), strict=True)
    )

    def without(name, seed, group):
        (cases,) = tables[name, seed]
        kept = (cases['member'] == 'ensemble') & (cases['group'] != group)
        return mean_iou(cases[kept])

    a, b = (
        np.array([[without(name, seed, group) for group in names] for seed in (0, 1)])
        for name in 'ab'
    )
    for kind, values in dict(mean=a, other=a - b).items():
        covariance = np.cov(values, ddof=1)[0, 1] * (len(names) - 1) ** 2 / len(names)
        assert found[kind].case_variance == pytest.approx(max(covariance, 0), rel=1e-9)
    assert found['mean'].case_variance > 0


def test_estimates_do_not_depend_on_each_other(monkeypatch, counts_of):
    """With several forms of contrasts, runs without a seed, and other test splits."""
    tables = {(name, seed): [segmented(seed + ord(name))] for name in NAMES for seed in range(3)}
    del tables['c', 1]
    for seed in range(3):
        tables['d', seed] = [segmented(seed, groups=4)]
    entries = [(name, member) for name in (*NAMES, 'x') for member in ('ensemble', 'student_1')]
    contrasts = [Contrast(entry) for entry in entries]
    contrasts += [Contrast(entries[0], (entry,)) for entry in entries[1:]]
    contrasts += [Contrast(entries[0], (entries[1], entry)) for entry in entries[2:]]
    alone = [estimate(counts_of(tables), 'IoU', [contrast])[0] for contrast in contrasts]
    for chunk in (1 << 20, 1, 100):
        monkeypatch.setattr('mmkdml.statistics.bootstrap._CHUNK', chunk)
        for one, other in zip(estimate(counts_of(tables), 'IoU', contrasts), alone, strict=True):
            for field in dataclasses.fields(one):
                if field.name not in ('distribution', 'comparison'):
                    own, expected = (getattr(each, field.name) for each in (one, other))
                    if isinstance(own, float):
                        assert own == pytest.approx(expected, rel=1e-12, nan_ok=True), field.name
                    else:
                        assert own == expected, field.name
            assert one.interval(0.9) == pytest.approx(other.interval(0.9), nan_ok=True)
    reasons = {one.undefined_reason.partition(':')[0] for one in alone}
    assert len(reasons) == 4
    assert '' in reasons
