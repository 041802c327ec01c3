import math

import pytest

from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.planning import detectable_differences
from mmkdml.experiments.suites.suite import Suite
from mmkdml.statistics.power import Plan, Variances, detectable
from mmkdml.statistics.records import SuiteClaim


@pytest.fixture
def suite(tmp_path):
    runs = tuple(RunSpec(name, seed, 'c') for seed in range(3) for name in 'abcd')
    claims = tuple(
        SuiteClaim((name, ''), (('a', ''),), '', '', primary) for name, primary in
        zip('bcd', (True, True, False), strict=True)
    )  # fmt: skip
    return Suite('s', 's.py', 'T', ('IoU', 'HD95'), (), runs, tmp_path, claims=claims)


def cells(text):
    lines = [line.strip('| ') for line in text.splitlines() if '|' in line]
    return [[cell.strip() for cell in line.split('|')] for line in lines]


def test_seeds_and_claims_are_those_of_the_suite(suite):
    text = detectable_differences(suite, groups=[20, 200], seed_sd=2.0, case_sd=10.0)
    assert '4 runs and 2 corrected claims' in text
    assert 'IoU in points' in text
    assert '2.00 of a run over seeds, 10.00 of a difference over groups' in text
    expected = [detectable(Plan(4, 3, groups, 2), Variances(2, 10)) for groups in (20, 200)]
    assert [row[1] for row in cells(text)[1:]] == [f'{value:.2f}' for value in expected]


def test_stated_plan_is_used(suite):
    options = dict(measure='HD95', power=0.9, groups=[30], seeds=[1, 5], claims=1)
    text = detectable_differences(suite, seed_sd=1.0, case_sd=4.0, **options)
    assert 'HD95 in mm' in text
    assert 'a probability of 0.9, for 4 runs and 1 corrected claim.' in text
    header, row = cells(text)
    assert header == ['groups', '1 seed', '5 seeds']
    assert math.isinf(detectable(Plan(4, 1, 30, 1), Variances(1, 4), 0.9))
    value = detectable(Plan(4, 5, 30, 1), Variances(1, 4), 0.9)
    assert row[:2] == ['30', '-']
    assert float(row[2]) == pytest.approx(value, abs=0.05)


def test_unknown_measure_raises(suite):
    with pytest.raises(ValueError, match='beauty'):
        detectable_differences(suite, None, 'beauty', groups=[1], seed_sd=1.0, case_sd=1.0)


def test_plan_without_results_needs_all_numbers(suite):
    with pytest.raises(ValueError, match='counts of finished runs, got .*case_sd=None'):
        detectable_differences(suite, groups=[20], seed_sd=1.0)
