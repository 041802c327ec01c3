import numpy as np
import pytest
from scipy.stats import norm

from mmkdml.statistics.counts import CaseCounts, Counts
from mmkdml.statistics.differences import Comparison, over_seeds, pool_seeds
from mmkdml.statistics.power import Plan, Variances, detectable, measured_variances, power

RNG = np.random.default_rng(0)
SUITES = 3000


def simulated_power(difference, plan, variances):
    """Rate of claims that hold in suites whose values are normal."""
    shape = (SUITES, plan.runs, plan.seeds)
    values = RNG.normal(0, variances.seed_sd, shape)
    groups = RNG.normal(difference, variances.case_sd, (SUITES, plan.groups))
    values[:, 0] += groups.mean(1)[:, None]
    without = (groups.sum(1, keepdims=True) - groups) / (plan.groups - 1)
    differences = values[:, 0] - values[:, 1]
    # Leaving out a group changes all seeds alike.
    replicates = (without - groups.mean(1, keepdims=True))[..., None] + differences[:, None]
    pooled = pool_seeds(values)
    found = Comparison([over_seeds(differences, replicates, pooled + pooled)])
    return ((found.value > 0) & (found.p < 0.05 / plan.claims)).mean()


@pytest.mark.parametrize(
    'plan',
    [Plan(12, 3, 20), Plan(12, 3, 100, 9), Plan(13, 2, 110, 3), Plan(6, 5, 20), Plan(20, 10, 60)],
)
@pytest.mark.parametrize('variances', [Variances(2, 3), Variances(1, 12), Variances(3, 0.5)])
def test_power_equals_a_simulation(plan, variances):
    difference = detectable(plan, variances, 0.8)
    assert power(difference, plan, variances) == pytest.approx(0.8, abs=1e-3)
    error = 4 * np.sqrt(0.8 * 0.2 / SUITES)
    assert simulated_power(difference, plan, variances) == pytest.approx(0.8, abs=error + 0.02)


def test_power_of_few_runs_is_an_upper_limit():
    plan, variances = Plan(3, 4, 40), Variances(2, 6)
    difference = detectable(plan, variances)
    found = simulated_power(difference, plan, variances)
    assert 0.65 < found < 0.8 + 4 * np.sqrt(0.8 * 0.2 / SUITES)


def test_power_without_a_difference_is_half_of_the_level_or_less():
    assert power(0, Plan(50, 20, 10**6), Variances(1, 1e-6)) == pytest.approx(0.025, abs=0.005)
    assert power(0, Plan(12, 3, 100), Variances(1, 5)) < 0.025


def test_many_seeds_and_groups_approach_the_normal_distribution():
    variances = Variances(2, 10)
    plan = Plan(10**4, 200, 10**4)
    error = np.sqrt(2 * 2**2 / 200 + 10**2 / 10**4)
    expected = error * (norm.ppf(0.975) + norm.ppf(0.8))
    assert detectable(plan, variances) == pytest.approx(expected, rel=0.03)


def test_more_seeds_groups_or_runs_and_fewer_claims_detect_more():
    variances = Variances(2, 10)
    base = detectable(Plan(8, 3, 50, 5), variances)
    for better in (Plan(8, 5, 50, 5), Plan(8, 3, 100, 5), Plan(16, 3, 50, 5), Plan(8, 3, 50, 3)):
        assert detectable(better, variances) < base


@pytest.mark.parametrize('plan', [Plan(12, 1, 100), Plan(12, 3, 1), Plan(4, 2, 100)])
def test_suites_that_decide_nothing(plan):
    assert power(1000, plan, Variances(1, 1)) == 0
    assert detectable(plan, Variances(1, 1)) == float('inf')


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match='at least 1, got Plan.*seeds=0'):
        power(1, Plan(5, 0, 10), Variances(1, 1))
    with pytest.raises(ValueError, match='positive seed_sd, got .*seed_sd=0'):
        power(1, Plan(5, 3, 10), Variances(0, 1))
    with pytest.raises(ValueError, match=r'\(0.05, 1\), got 1'):
        detectable(Plan(5, 3, 10), Variances(1, 1), 1)


def simulated_counts(runs, seeds, groups, images=400):
    """Accuracies with a seed standard deviation of 3 points and one of 10 points of groups."""
    level = 0.6 + RNG.normal(0, 0.03, (runs, seeds, 1)) + RNG.normal(0, 0.1, (runs, 1, groups))
    right = np.round(images * level)
    cases = frozenset((f'i{group}', f'g{group}') for group in range(groups))
    return Counts(
        'classification',
        {
            (f'run_{run}', 'ensemble'): {
                seed: CaseCounts(cases, np.stack([one, images - one, images - one], 1)[..., None])
                for seed, one in enumerate(right[run])
            }
            for run in range(runs)
        },
    )


def test_variances_of_a_finished_suite():
    found = measured_variances(simulated_counts(12, 5, 60), 'accuracy')
    assert found.seed_sd == pytest.approx(3, rel=0.35)
    assert found.case_sd == pytest.approx(10 * np.sqrt(2), rel=0.2)


def test_case_variance_of_large_suites_is_a_mean_over_some_pairs(monkeypatch):
    counts = simulated_counts(40, 3, 60)
    every = measured_variances(counts, 'accuracy')
    monkeypatch.setattr('mmkdml.statistics.power._MOST_PAIRS', 200)
    some = measured_variances(counts, 'accuracy')
    assert some.seed_sd == every.seed_sd
    assert some.case_sd == pytest.approx(every.case_sd, rel=0.03)
    assert some.case_sd != every.case_sd


@pytest.mark.parametrize(('runs', 'seeds'), [(0, 1), (1, 3), (4, 1)])
def test_variances_need_runs_and_seeds(runs, seeds):
    with pytest.raises(ValueError, match='two runs with two shared seeds.* --seed-sd'):
        measured_variances(simulated_counts(runs, seeds, 9), 'accuracy')
