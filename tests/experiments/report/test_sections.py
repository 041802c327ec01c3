import base64
from collections import Counter

import pandas as pd
import pytest

from mmkdml.experiments.paper import claims
from mmkdml.experiments.report import sections, tables
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

        for module in (sections, tables, claims):
            monkeypatch.setattr(module, function.__name__, counted)

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
    assert [table.checkpoint for table in found.tables] == ['best', 'last']


def test_ensemble_size_is_the_sum_of_the_students():
    ((_, sizes), names), *rest = section(run('a'), run('hot/b')).sizes
    assert (names, rest) == ('all runs', [])
    together = sizes[-1]
    assert (together.name, together.parameters, together.flops) == ('ensemble', 50, 1200)
    assert (together.fewer_parameters, together.fewer_flops) == ('50.0 % fewer', '20.0 % more')


def test_pictures_of_one_seed_per_run(tmp_path):
    for name in ('0', '1', '2'):
        (tmp_path / name).write_bytes(name.encode())
    found = section(
        run('a', 0),
        run('a', 1, pictures={'panels/panels.png': tmp_path / '1'}),
        run('a', 2, pictures={'panels/panels.png': tmp_path / '2'}),
        pictures={'analysis/cka.png': tmp_path / '0'},
    )
    pictures = {
        picture.text: base64.b64decode(picture.uri.partition(',')[2]) for picture in found.pictures
    }
    assert pictures == {
        'Several runs: analysis/cka.png': b'0',
        'a, seed 1: panels/panels.png': b'1',
    }


def test_gradient_ratios_are_drawn_if_logged():
    rows = [(1, 'loss', 1.0), (1, 'ensemble/IoU', 50.0)]
    balance = [(1, 'gradient_ratio/student_1.from_teacher.features', 2.0)]
    titles = [picture.text.split()[0] for picture in section(run('a', curves=rows)).curves]
    assert titles == ['IoU', 'Training']
    titles = [picture.text for picture in section(run('a', curves=rows + balance)).curves]
    assert [title.split()[0] for title in titles] == ['IoU', 'Training', 'Gradient']
