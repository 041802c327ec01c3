from collections import Counter

import pandas as pd
import pytest

from mmkdml.experiments.paper import claims
from mmkdml.experiments.report import results, sections, tables
from mmkdml.experiments.report.sections import build_section
from mmkdml.statistics.counts import count_cases, find_variants
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord


def run(name, seed=0, state='done', curves=(), **parts):
    cases = pd.DataFrame(
        [('ensemble', image, 'a', 1, 80, 10, 10) for image in 'xy'],
        columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'],
    )
    members = dict(
        teacher=dict(parameters=100, flops=1000),
        student_1=dict(parameters=30, flops=400),
        student_2=dict(parameters=20, flops=800),
    )
    metadata = dict(input_size=[8, 8], members=members, splits={}, versions={})
    metadata |= dict(config_text='a = 1', seconds=2.0)
    return RunRecord(
        name,
        seed,
        'kdml',
        'v3',
        state,
        measured={name: Measurement({}, cases) for name in ('best', 'last')},
        curves=pd.DataFrame(curves, columns=['epoch', 'key', 'value']),
        metadata=metadata,
        **parts,
    )


def section(*runs, **parts):
    record = SuiteRecord('mini', 'Small', ['IoU'], (), runs, **parts)
    return build_section(record, 'here', 'm.py', resamples=20)


@pytest.fixture
def calls(monkeypatch):
    """Number of calls of each counting function, from any module of the report."""
    calls = Counter()

    def spy(function):
        def counted(*args):
            calls[function.__name__] += 1
            return function(*args)

        for module in (results, sections, tables, claims):
            monkeypatch.setattr(module, function.__name__, counted, raising=False)

    spy(count_cases)
    spy(find_variants)
    return calls


def test_cases_are_counted_once_per_checkpoint(calls):
    section(run('a'), run('hot/b'))
    assert calls == dict(count_cases=2, find_variants=1)


def test_runs_are_grouped_by_name_and_counted_by_state():
    found = section(run('a'), run('a', 1, 'failed'), run('hot/b'))
    assert found.states == dict(done=2, failed=1)
    assert found.anchors == {'a': 'here-run-0', 'hot/b': 'here-run-1'}
    assert [(table.metric.key, table.checkpoint) for table in found.results] == [
        ('IoU', 'best'),
        ('IoU', 'last'),
    ]
    assert found.seconds == {'a': 2.0, 'hot/b': 2.0}


def test_ensemble_size_is_the_sum_of_the_students():
    ((_, sizes), names), *rest = section(run('a'), run('hot/b')).sizes
    assert (names, rest) == ('all runs', [])
    together = sizes[-1]
    assert (together.name, together.parameters, together.flops) == ('ensemble', 50, 1200)
    assert (together.fewer_parameters, together.fewer_flops) == ('50.0 % fewer', '20.0 % more')


def test_gradient_ratios_are_drawn_if_logged():
    rows = [(1, 'loss', 1.0), (1, 'ensemble/IoU', 50.0)]
    balance = [(1, 'gradient_ratio/student_1.from_teacher.features', 2.0)]
    titles = [curve.title for curve in section(run('a', curves=rows)).curves]
    assert titles == ['IoU (validation)', 'Training loss']
    curves = section(run('a', curves=rows + balance)).curves
    assert [curve.title for curve in curves] == [*titles, 'Gradient balance']
    assert all(curve.svg.startswith('<svg') for curve in curves)


def test_claims_that_are_not_computable_are_counted_and_have_an_axis():
    first, _ = section(run('a')).claims
    (teacher,) = (results for family, _, results in first.families if family == 'teacher')
    # There is no case table of the teacher.
    assert 'no finished run of a has a member teacher' in teacher[0].verdict
    assert first.verdicts == [('not computable', 'neutral', 2)]
    assert (first.axis.low, first.axis.high) == (-1, 1)
