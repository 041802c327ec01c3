import base64

import pandas as pd

from mmkdml.experiments.report.sections import chapter_of
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
    facts = dict(input_size=[8, 8], members=members, splits={}, versions={})
    return RunRecord(
        name,
        seed,
        'kdml',
        'v3',
        state,
        measured={name: Measurement({}, cases) for name in ('best', 'last')},
        curves=pd.DataFrame(curves, columns=['epoch', 'key', 'value']),
        metadata=facts,
        **parts,
    )


def chapter(*runs, **parts):
    return chapter_of(SuiteRecord('mini', 'Small', ['IoU'], (), runs, **parts), 'here', 'm.py', 20)


def test_runs_are_counted_and_kept_by_name():
    found = chapter(run('a'), run('a', 1, 'failed'), run('hot/b'))
    assert found.states == dict(done=2, failed=1)
    assert found.anchors == {'a': 'here-run-0', 'hot/b': 'here-run-1'}
    assert [table.checkpoint for table in found.tables] == ['best', 'last']


def test_the_students_together_are_the_ensemble():
    ((_, sizes), names), *rest = chapter(run('a'), run('hot/b')).sizes
    assert (names, rest) == ('all runs', [])
    together = sizes[-1]
    assert (together.name, together.parameters, together.flops) == ('ensemble', 50, 1200)
    assert (together.fewer_parameters, together.fewer_flops) == ('50.0 % fewer', '20.0 % more')


def test_one_seed_of_each_run_shows_its_pictures(tmp_path):
    for name in ('0', '1', '2'):
        (tmp_path / name).write_bytes(name.encode())
    found = chapter(
        run('a', 0),
        run('a', 1, pictures={'panels/panels.png': tmp_path / '1'}),
        run('a', 2, pictures={'panels/panels.png': tmp_path / '2'}),
        pictures={'analysis/cka.png': tmp_path / '0'},
    )
    shown = {
        picture.text: base64.b64decode(picture.uri.partition(',')[2]) for picture in found.pictures
    }
    assert shown == {
        'Of several runs: analysis/cka.png': b'0',
        'a, seed 1: panels/panels.png': b'1',
    }


def test_the_balance_of_losses_is_a_curve_where_it_was_logged():
    rows = [(1, 'loss', 1.0), (1, 'ensemble/IoU', 50.0)]
    balance = [(1, 'gradient_ratio/student_1.from_teacher.features', 2.0)]
    titles = [picture.text.split()[0] for picture in chapter(run('a', curves=rows)).curves]
    assert titles == ['IoU', 'Training']
    titles = [picture.text for picture in chapter(run('a', curves=rows + balance)).curves]
    assert [title.split()[0] for title in titles] == ['IoU', 'Training', 'Norm']
