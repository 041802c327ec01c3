import json
import re

import pytest

from mmkdml.apis.summary.history import read_history
from mmkdml.apis.summary.results import deciding_evaluation, headline, metric_tables


def results(*evaluations):
    common = dict(
        iter=None, checkpoint='best.pth', checkpoint_sha256=None, run='1', changes={}, data={},
        cases=40, date='', version='1',
    )  # fmt: skip
    run = dict(id='1', config=None, config_sha256=None, seed=3, data={}, versions={})
    return dict(
        schema='mmkdml.results',
        version=1,
        run=run,
        evaluations=[dict(common, **one) for one in evaluations],
    )


def values(**members):
    return [
        dict(member=name, measure=measure, value=value, unit='percent')
        for name, own in members.items()
        for measure, value in own.items()
    ]


@pytest.fixture
def tested(write_run):
    run = write_run()
    iou = 'foreground/IoU'
    best = values(
        teacher={iou: 55.6, f'{iou}_edema': 1, 'fidelity/KL': None},
        student_1={iou: 50.0},
        student_2={iou: 57.0},
        ensemble={iou: 57.7},
        students={'diversity/disagreement': 3},
    )
    content = results(
        dict(split='test', kind='last', epoch=3, values=values(ensemble={iou: 90})),
        dict(split='test', kind='best', epoch=2, values=best),
        dict(
            split='test',
            kind='best',
            epoch=2,
            values=values(ensemble={iou: 99}),
            changes={'model.x': [1, 2]},
        ),
    )
    (run / 'results.json').write_text(json.dumps(content))
    return read_history(run)


def test_headline_compares_the_ensemble(tested):
    assert deciding_evaluation(tested).kind == 'best'
    found = headline(tested)
    assert re.search(r'ensemble has an IoU of 57\.7 % on the test split', found.sentence)
    assert '2.1 points above the teacher' in found.sentence
    assert '0.7 points above the best student (student_2)' in found.sentence
    assert [(value, kind) for _, value, _, kind in found.cards] == [
        ('57.7 %', 'accent'),
        ('55.6 %', 'good'),
        ('57.0 %', 'good'),
    ]
    assert 'epoch 2' in found.cards[0][2]


def test_headline_of_losses_networks_and_nothing(write_run):
    worse = headline(read_history(write_run('a', members=('ensemble', 'student_1', 'teacher'))))
    assert '20.0 points below the teacher' in worse.sentence
    assert worse.cards[1][3] == 'bad'
    single = headline(read_history(write_run('b', {'decode.loss': 1.0}, ('model',))))
    assert single.sentence.startswith('The network has an IoU of 12.0 % on the validation split')
    assert len(single.cards) == 1
    none = headline(read_history(write_run('c', validate=False)))
    assert none.cards == []


def test_augmented_tests_are_named(write_run):
    run = write_run()
    one = dict(split='test', kind='best', epoch=2, values=values(ensemble={'foreground/IoU': 99}))
    changes = {'tta': [False, 'flips'], 'tta_model.type': [None, 'X'], 'model.x': [1, 2]}
    (run / 'results.json').write_text(json.dumps(results(dict(one, changes=changes), one)))
    titles = [title for title, _ in metric_tables(read_history(run))[0].groups]
    assert titles[:2] == [
        'Test, best checkpoint (epoch 2), 40 images',
        'Test, best checkpoint (epoch 2), 40 images, with test-time augmentation, changed '
        'settings: model.x',
    ]


def test_tables_group_measures_and_mark_the_best(tested):
    quality, fidelity, diversity, by_class = metric_tables(tested)
    assert quality.head == ['IoU (%)']
    (title, rows), (changed, _), (_, last) = quality.groups
    assert changed.endswith('changed settings: model.x')
    assert 'best checkpoint (epoch 2), 40 images' in title
    assert [(name, cells[0].text, cells[0].is_best) for name, cells in rows] == [
        ('teacher', '55.60', False),
        ('student_1', '50.00', False),
        ('student_2', '57.00', False),
        ('ensemble', '57.70', True),
    ]
    assert [name for name, _ in last] == ['ensemble']
    assert fidelity.groups[0][1][0][1][0].text == '–'
    assert diversity.groups[0][1][0][0] == 'students'
    assert (by_class.head, by_class.groups[0][1][0][0]) == (['edema'], 'teacher')


def test_tables_by_class_have_the_unit_of_the_measure(write_run):
    run = write_run()
    own = {'coco/bbox_mAP': 0.5, 'coco/cell_precision': 0.25, 'foreground/IoU_edema': 50.0}
    content = results(dict(split='test', kind='best', epoch=2, values=values(ensemble=own)))
    (run / 'results.json').write_text(json.dumps(content))
    tables = metric_tables(read_history(run))
    assert [table.caption for table in tables] == [
        'Quality of predictions',
        'AP by class (fraction)',
        'IoU by class (%)',
    ]
