import dataclasses

import numpy as np
import pytest

from benchmarks.calibration import (
    CLAIMS,
    Regime,
    compare,
    evaluate,
    expected_value,
    format_calibration,
    mean_interval,
    measure_calibration,
    simulate,
)
from mmkdml.statistics.bootstrap import Contrast, estimate
from mmkdml.statistics.counts import CaseCounts, Counts

#: Suites per regime; the standard errors of rates are below one point.
SUITES = 200
#: Regimes in which cases or seeds dominate, with the power of the published simulation.
REGIMES = [
    (Regime('IoU', 100, 3), 74),
    (Regime('IoU', 100, 3, 3.0, 0.3), 38),
    (Regime('IoU', 20, 3, gain=12.0), 54),
    (Regime('IoU', 20, 2, 5.0, 0.3), None),
]


@pytest.mark.parametrize(('regime', 'published'), REGIMES, ids=lambda value: str(value)[:60])
def test_size_family_error_coverage_and_power(regime, published):
    """Errors are at most nominal within three Monte Carlo standard errors."""
    found = measure_calibration(regime, SUITES)
    assert found.errors['size'] < 1
    assert 1 < found.size < 5 + 3 * found.errors['size']
    assert found.family < 5 + 3 * max(found.errors['family'], 0.9)
    assert found.coverage > 95 - 3 * found.errors['coverage']
    assert found.mean_coverage > (95 if regime.groups > 50 else 90) - 3 * max(
        found.errors['mean_coverage'], 1.4
    )
    if published:
        assert found.power > published - 3 * found.errors['power']


@pytest.mark.parametrize('measure', ['IoU', 'accuracy'])
def test_simulated_suites_are_tested_as_real_ones(measure):
    """The vectorized tests equal ``estimate`` on the counts of one suite."""
    regime = Regime(measure, 15, 3)
    counts = simulate(regime, np.full(12, 1.0), 2, np.random.default_rng(0))
    cases = frozenset((f'i{group:02}', f'g{group:02}') for group in range(15))
    suite = Counts(
        'segmentation' if measure == 'IoU' else 'classification',
        {
            (f'run_{run}', 'ensemble'): {
                seed: CaseCounts(cases, counts[1, run, seed]) for seed in range(3)
            }
            for run in range(12)
        },
    )
    entries = [(f'run_{run}', 'ensemble') for run in CLAIMS[0]]
    mean, difference = estimate(
        suite, measure, [Contrast(entries[0]), Contrast(entries[0], (entries[1],))]
    )
    values = evaluate(measure, counts)
    found = compare(values, *CLAIMS[0])
    assert difference.value == pytest.approx(found.value[1])
    assert difference.p == pytest.approx(found.p[1])
    low, high = found.interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((low[1], high[1]))
    low, high = mean_interval(values, CLAIMS[0][0])
    assert (mean.low, mean.high) == pytest.approx((low[1], high[1]))


@pytest.mark.parametrize('measure', ['IoU', 'accuracy'])
def test_expected_value_is_that_of_many_cases(measure):
    regime = Regime(measure, 4000, 4)
    counts = simulate(regime, np.full(3, 0.8), 10, np.random.default_rng(1)).sum((-1, -3))
    correct, wrong, missed = np.moveaxis(counts, -1, 0)
    total = correct + missed + (wrong if measure == 'IoU' else 0)
    values = 100 * correct / total
    error = values.std() / np.sqrt(values.size)
    assert values.mean() == pytest.approx(expected_value(regime, 0.8), abs=5 * error)
    assert values.std(1).mean() == pytest.approx(1.5, rel=0.25)  # over runs and seeds, in points


def test_table_states_monte_carlo_errors():
    found = measure_calibration(Regime('IoU', 8, 2), 20)
    again = measure_calibration(Regime('IoU', 8, 2), 20)
    assert dataclasses.asdict(found) == dataclasses.asdict(again)
    text = format_calibration({'small': found})
    assert f'{found.size:.1f} ± {found.errors["size"]:.1f}' in text
    assert '20' in text.splitlines()[4]


def test_one_seed_is_invalid():
    with pytest.raises(ValueError, match='2 seeds, got 1'):
        measure_calibration(Regime('IoU', 8, 1))
