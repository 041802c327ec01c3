import json
import math
import shutil

import pytest

from mmkdml.apis.summary.history import learner_of, members_of_keys, read_history


def test_logs_of_a_resumed_run_are_joined(write_run):
    history = read_history(write_run(starts=(0, 5, 9)))
    points = history.losses['teacher.decode.loss']
    assert points == [(step / 4, pytest.approx(1 / step)) for step in range(1, 13)]
    assert (history.trainings, history.by_epoch) == (3, True)
    assert history.members == ['teacher', 'student_1', 'student_2']


def test_validations_of_a_run_without_results(write_run):
    run = write_run()
    test = next(run.glob('2*')) / f'{next(run.glob("2*")).name}.json'
    test.write_text(json.dumps({'ensemble/foreground/IoU': None, 'time': 3}))
    found = read_history(run).evaluations
    assert [(one.split, one.epoch) for one in found] == [
        ('val', 1),
        ('val', 2),
        ('val', 3),
        ('test', None),
    ]
    assert found[1].values['student_2'] == {'foreground/IoU': 28}
    assert math.isnan(found[-1].values['ensemble']['foreground/IoU'])


def test_single_network_counts_iterations(tmp_path):
    folder = tmp_path / '1' / 'vis_data'
    folder.mkdir(parents=True)
    lines = [
        {'loss': 2, 'decode.loss_ce': 2, 'lr': 1, 'iter': 10, 'step': 10},
        {'accuracy/top1': 5.0, 'model/x/y': 4, 'step': 10},
    ]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    history = read_history(tmp_path)
    assert (history.members, history.by_epoch) == (['model'], False)
    assert history.losses['decode.loss_ce'] == [(10, 2)]
    assert history.evaluations[0].iter == 10
    assert history.evaluations[0].values == {'model': {'accuracy/top1': 5, 'x/y': 4}}


def test_empty_and_damaged_files_are_skipped(write_run, tmp_path):
    assert read_history(tmp_path).losses == {}
    run = write_run()
    (next(run.glob('2*')) / 'call_train.json').write_text('[')
    (run / 'identity.json').write_text('[]')
    (run / 'results.json').write_text('{}')
    history = read_history(run)
    assert (history.calls, history.identity) == ([], {})
    assert len(history.evaluations) == 3
    shutil.rmtree(next(run.glob('2*')))
    assert read_history(run).trainings == 0


def test_members_of_losses():
    assert learner_of('a.head.loss_ce') == 'a'
    assert learner_of('a.loss_from_b.features') == 'a'
    assert learner_of('lr') is None
    keys = dict.fromkeys(['a.loss_from_t.features', 'b.loss_from_a.predictions', 'b.loss', 'lr'])
    assert members_of_keys(keys) == ['t', 'a', 'b']
