import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_rel

from mmkdml.statistics.differences import (
    Comparison,
    SeedVariance,
    Tested,
    Variance,
    case_variance,
    correct_p_values,
    over_seeds,
    pool_seeds,
)

RNG = np.random.default_rng(0)


def exact(value, variance, df):
    """A test with a known variance, whose p-value is that of a t-test."""
    part = np.asarray(variance, float)
    return Tested(np.asarray(value, float), (Variance(part, df, np.zeros_like(part), 1),))


def test_pooled_seed_variance_of_two_runs_is_half_of_that_of_their_difference():
    values = RNG.normal(0, 3, (2, 4))
    pooled = pool_seeds(values)
    assert pooled.variance == pytest.approx((values[0] - values[1]).var(ddof=1) / 2)
    assert (pooled.df, pooled.runs) == (3, 2)


def test_seed_effects_and_levels_of_runs_do_not_change_the_pooled_variance():
    values = RNG.normal(0, 3, (50, 6, 3))
    moved = values + RNG.normal(0, 20, (50, 6, 1)) + RNG.normal(0, 20, (50, 1, 3))
    np.testing.assert_allclose(pool_seeds(moved).variance, pool_seeds(values).variance)
    # With what the runs of a seed share, only the levels cancel.
    levels = values + RNG.normal(0, 20, (50, 6, 1))
    shared = pool_seeds(levels, shared=True).variance
    np.testing.assert_allclose(shared, values.var(-1, ddof=1).mean(-1))


def test_pooled_variance_is_unbiased_with_its_degrees_of_freedom():
    pooled = pool_seeds(RNG.normal(0, 2, (20000, 7, 3)))
    error = 4 * np.sqrt(2 / pooled.df) / np.sqrt(20000)  # of the mean of chi-squared / df
    assert pooled.variance.mean() == pytest.approx(4, abs=4 * error)
    assert pooled.variance.var() == pytest.approx(2 * 4**2 / 12, rel=0.06)


def test_variance_of_a_difference_of_two_kinds_of_members():
    one, other = SeedVariance(np.array(2.0), 12, 7), SeedVariance(np.array(5.0), 8, 5)
    total = one + other
    assert (total.variance, total.df, total.runs) == (7, 8, 5)


def test_case_variance_of_a_mean_is_its_squared_standard_error():
    scores = RNG.normal(70, 9, 25)
    without = (scores.sum() - scores) / 24
    assert case_variance(without[:, None]) == pytest.approx(scores.var(ddof=1) / 25)


def test_case_variance_of_several_seeds_is_their_covariance():
    scores = RNG.normal(70, 9, (3, 25)) + RNG.normal(0, 30, 25)
    without = (scores.sum(-1, keepdims=True) - scores) / 24
    covariance = np.cov(scores) / 25
    expected = covariance[~np.eye(3, dtype=bool)].mean()
    assert case_variance(without.T) == pytest.approx(expected)
    opposite = np.stack([without[0], -without[0]], 1)
    assert case_variance(opposite) == 0  # never negative


def test_without_pooling_one_of_both_tests_is_the_paired_t_test():
    first, second = RNG.normal(70, 2, (2, 4))
    replicates = np.zeros((10, 4))  # cases that do not matter
    found = over_seeds(first - second, replicates, None)
    expected = ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.9)
    width = found.half_width(0.9)
    assert (found.value - width, found.value + width) == pytest.approx((low, high))


def test_one_seed_is_tested_over_cases():
    scores = RNG.normal(3, 9, 25)
    without = (scores.sum() - scores) / 24
    found = over_seeds(scores.mean(keepdims=True), without[:, None], None)
    assert found.p == pytest.approx(ttest_1samp(scores, 0).pvalue)


@pytest.mark.parametrize(('runs', 'tests'), [(4, 2), (5, 1)])
def test_variance_of_few_runs_is_not_pooled(runs, tests):
    pooled = SeedVariance(np.array(50.0), 8, runs)
    found = over_seeds(np.array([1.0, 2.0, 4.0]), RNG.normal(0, 1, (9, 3)), pooled)
    assert len(found.variances) == tests
    assert found.variances[0].seeds == pytest.approx(50 / 3 if tests == 1 else 7 / 9)


def test_own_variance_is_the_floor():
    pooled = SeedVariance(np.array(0.1), 12, 7)
    values = np.array([1.0, 5.0, 9.0])
    (variance,) = over_seeds(values, RNG.normal(0, 0.01, (9, 3)), pooled).variances
    assert (variance.seeds, variance.seeds_df) == (pytest.approx(16 / 3), 12)


def test_leading_dimensions_are_independent_data_sets():
    values, replicates = RNG.normal(0, 1, (6, 3)), RNG.normal(0, 1, (6, 12, 3))
    pooled = SeedVariance(RNG.random(6), 14, 8)
    together = over_seeds(values, replicates, pooled)
    for index in range(6):
        one = SeedVariance(pooled.variance[index], 14, 8)
        single = over_seeds(values[index], replicates[index], one)
        assert together.p[index] == pytest.approx(float(single.p))
        assert together.half_width(0.95)[index] == pytest.approx(float(single.half_width(0.95)))
        for joint, own in zip(
            together.percent_interval(0.9), single.percent_interval(0.9), strict=True
        ):
            assert joint[index] == pytest.approx(float(own), nan_ok=True)


def test_p_value_of_ties_and_of_constant_values():
    found = exact([0, 1e-14, 4], [0, 0, 0], 2)
    np.testing.assert_array_equal(found.p, [1, 1, np.nan])
    assert not found.varies.any()


def test_better_than_all_competitors_if_better_than_each():
    tests = [exact(5, 1, 20), exact(2, 1, 20), exact(9, 1, 20)]
    found = Comparison(tests)
    assert found.value == 2
    assert found.p == tests[1].p
    low, high = found.interval(0.95)
    assert low == pytest.approx(2 - t.ppf(0.975, 20))
    assert high == pytest.approx(2 + t.ppf(1 - 0.025 / 3, 20))


def test_worse_than_one_of_several_competitors_is_corrected_for_their_number():
    tests = [exact(5, 1, 20), exact(-3, 1, 20), exact(-1, 1, 20)]
    found = Comparison(tests)
    assert found.value == -3
    assert found.p == pytest.approx(3 * tests[1].p)
    assert Comparison([exact(-1, 9, 20), exact(4, 1, 20)]).p == 1


@pytest.mark.parametrize('confidence', [0.9, 0.95, 0.994])
def test_interval_excludes_0_exactly_if_p_is_small(confidence):
    values = RNG.normal(0, 2, (3, 4000))
    found = Comparison([exact(one, np.ones(4000), 10) for one in values])
    low, high = found.interval(confidence)
    np.testing.assert_array_equal((low > 0) | (high < 0), found.p < 1 - confidence)


def test_invalid_shapes_raise():
    with pytest.raises(ValueError, match=r'2 runs and 2 seeds, got \(5, 1\)'):
        pool_seeds(np.ones((5, 1)))
    with pytest.raises(ValueError, match='2 groups, got 1'):
        case_variance(np.ones((1, 3)))
    with pytest.raises(ValueError, match='2 seeds or 2 groups'):
        over_seeds(np.ones(1), None, None)


def test_holm_rejects_step_down_at_the_corrected_p_value():
    """A hypothesis is rejected at a level if all with smaller p are, and p <= level / rest."""
    p = np.random.default_rng(0).beta(0.3, 3, 12)
    corrected = correct_p_values(p)
    for level in np.linspace(0, 1, 301)[1:-1]:
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > level / (len(p) - rank):
                break
            rejected.add(index)
        assert rejected == set(np.flatnonzero(corrected <= level))
    assert corrected.max() <= 1
    assert not len(correct_p_values(np.empty(0)))
