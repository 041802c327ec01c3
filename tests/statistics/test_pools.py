import numpy as np
import pytest

from mmkdml.statistics.pools import SeedPools, shared_seeds

SEEDS = (0, 1, 2)


@pytest.fixture
def counts(classified, counts_of):
    """Runs with two members; the last two have the same predictions."""
    rng = np.random.default_rng(0)
    tables = {
        (name, seed): [
            classified(rng.random(40) < 0.7, member) for member in ('student_1', 'ensemble')
        ]
        for name in 'abcd'
        for seed in SEEDS
    }
    return counts_of(tables | {('e', seed): tables['d', seed] for seed in SEEDS})


def values(counts, member):
    scores = counts.scores('accuracy')
    return np.array([[scores[name, member][seed] for seed in SEEDS] for name in 'abcd'])


def pooled(counts, *pair):
    cases = counts.by_entry['a', 'ensemble'][0].cases
    return SeedPools(counts, counts.scores('accuracy')).pooled(pair, SEEDS, cases)


def test_difference_of_two_runs_has_twice_the_residual_variance(counts):
    own = values(counts, 'ensemble')
    residuals = own - own.mean(1, keepdims=True) - own.mean(0) + own.mean()
    found = pooled(counts, ('a', 'ensemble'), ('b', 'ensemble'))
    assert found.variance == pytest.approx(2 * (residuals**2).sum() / 6)
    assert (found.df, found.runs) == (6, 4)  # equal runs count once


def test_difference_of_two_members_of_a_run_has_its_own_variance(counts):
    difference = values(counts, 'ensemble') - values(counts, 'student_1')
    found = pooled(counts, ('a', 'ensemble'), ('a', 'student_1'))
    assert found.variance == pytest.approx(difference.var(1, ddof=1).mean())


def test_seeds_and_cases_that_differ_have_a_reason(counts, classified, counts_of):
    assert shared_seeds(counts, [('a', 'ensemble'), ('b', 'ensemble')]) == (SEEDS, '')
    assert 'of x' in shared_seeds(counts, [('a', 'ensemble'), ('x', 'ensemble')])[1]
    other = counts_of({('a', 0): [classified([1, 0])], ('b', 0): [classified([1, 0, 1])],
                       ('c', 1): [classified([1, 0])]})  # fmt: skip
    assert '1 are in only one' in shared_seeds(other, [('a', 'ensemble'), ('b', 'ensemble')])[1]
    assert 'no seed' in shared_seeds(other, [('a', 'ensemble'), ('c', 'ensemble')])[1]
