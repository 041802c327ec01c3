"""Results of runs of one parameter; the tests of the tools have classrooms."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmkdml.apis import load_results
from mmkdml.apis.run.results import COLUMNS, ResultsHook
from mmkdml.files import file_sha256

METRICS = {
    'ensemble/foreground/IoU': 51.5,
    'ensemble/fidelity/KL': torch.tensor(0.25),
    'score': math.nan,
    'students/diversity/error_correlation': -math.inf,
    'ensemble/names': 'no number',
}
ROWS = [
    ('ensemble', 'foreground/IoU', 51.5, 'percent'),
    ('ensemble', 'fidelity/KL', 0.25, 'nats'),
    ('model', 'score', None, ''),
    ('students', 'diversity/error_correlation', None, 'correlation'),
]


@pytest.fixture
def runner(tmp_path):
    """Return a runner at step 4 of a run with two checkpoints."""
    split = tmp_path / 'test.csv'
    split.write_text('1 2 3\n')
    loader = dict(dataset=dict(type='X', ann_file=str(split)))
    config = Config(dict(model=dict(type='X'), val_dataloader=loader, test_dataloader=loader))
    folder = tmp_path / 'run'
    folder.mkdir()
    config.dump(folder / 'mine.py')
    (folder / 'identity.json').write_text(json.dumps(dict(id='a' * 32, config='mine.py')))
    for name in ('epoch_2.pth', 'best_x_epoch_1.pth'):
        (folder / name).write_text(name)
    object.__setattr__(config, '_filename', str(folder / 'mine.py'))
    data = SimpleNamespace(dataset=range(3))
    return SimpleNamespace(
        cfg=config, work_dir=str(folder), model=torch.nn.Identity(), seed=3, epoch=1, iter=4,
        val_dataloader=data, test_dataloader=data, logger=MMLogger.get_instance('results'),
    )  # fmt: skip


def evaluate(runner, checkpoint, metrics=METRICS, **meta):
    runner.tested_checkpoint = (Path(runner.work_dir, checkpoint), dict(seed=3, **meta))
    ResultsHook().after_test_epoch(runner, metrics)
    return load_results(runner.work_dir)


def strict(path):
    def refuse(word):
        raise ValueError(word)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_results_of_tests_are_read_as_written(runner):
    folder = Path(runner.work_dir)
    evaluate(runner, 'epoch_2.pth', run=dict(id='a' * 32))
    results = evaluate(runner, 'best_x_epoch_1.pth')
    content = strict(folder / 'results.json')
    assert (content['schema'], content['version']) == ('mmkdml.results', 1)
    assert results.run == content['run']
    digest = file_sha256(folder / 'mine.py')
    assert {'id': 'a' * 32, 'config': 'mine.py', 'config_sha256': digest, 'seed': 3}.items() <= (
        results.run.items()
    )
    last, best = results.evaluations
    assert [tuple(one.values()) for one in last['values']] == ROWS
    assert (last['kind'], last['epoch'], last['run']) == ('last', 2, 'a' * 32)
    assert (best['kind'], best['epoch'], best['run']) == ('best', 1, None)
    assert best['checkpoint_sha256'] == file_sha256(folder / 'best_x_epoch_1.pth')
    assert best['data'] == {'test': file_sha256(folder.parent / 'test.csv')}
    assert (best['cases'], best['changes']) == (3, {})

    table = results.table
    assert list(table) == list(COLUMNS)
    assert len(table) == 2 * len(ROWS)
    assert set(table.seed) == {3}
    assert table.value.isna().sum() == 4
    written = pd.read_csv(folder / 'results.csv', keep_default_na=False, na_values=[''])
    pd.testing.assert_series_equal(written.value, table.value)
    assert written.measure.tolist() == table.measure.tolist()


def test_a_repeated_test_replaces_its_results(runner):
    evaluate(runner, 'epoch_2.pth')
    results = evaluate(runner, 'epoch_2.pth', {'score': 7})
    assert results.table.value.tolist() == [7]


def test_a_test_with_other_settings_is_recorded_as_such(runner):
    evaluate(runner, 'epoch_2.pth', {'score': 7})
    runner.cfg.test_dataloader.dataset.indices = 2
    results = evaluate(runner, 'epoch_2.pth', {'score': 9})
    assert [one['changes'] for one in results.evaluations] == [
        {},
        {'test_dataloader.dataset.indices': ['(not set)', 2]},
    ]
    assert results.table.changes.tolist() == [
        '',
        "test_dataloader.dataset.indices: '(not set)' -> 2",
    ]


def test_a_test_with_augmentation_never_replaces_the_plain_one(runner):
    evaluate(runner, 'epoch_2.pth', {'score': 7})
    plain = runner.cfg.test_dataloader
    runner.cfg.tta = dict(views='flips', test_dataloader=plain)
    runner.cfg.test_dataloader = dict(dataset=dict(plain.dataset, pipeline=[dict(type='Y')]))
    for score in (8, 9):
        results = evaluate(runner, 'epoch_2.pth', {'score': score})
    assert results.table.value.tolist() == [7, 9]
    assert [one['changes'] for one in results.evaluations] == [{}, {'tta': [False, 'flips']}]


def test_validations_after_the_resumed_step_are_removed(runner):
    hook = ResultsHook()
    hook.after_val_epoch(runner, {'score': 1})  # not during a training
    assert not Path(runner.work_dir, 'results.json').exists()
    hook.before_train(runner)
    for step in (4, 8, 8):
        runner.iter = step
        hook.after_val_epoch(runner, {'score': step})
    evaluate(runner, 'epoch_2.pth', {'score': 9})
    runner.iter = 4
    hook.before_train(runner)
    table = load_results(runner.work_dir).table
    assert table[['split', 'iter', 'value']].to_numpy().tolist()[0] == ['val', 4, 4.0]
    assert table.split.tolist() == ['val', 'test']
    Path(runner.work_dir, 'identity.json').write_text(json.dumps(dict(id='b')))  # --overwrite
    hook.before_train(runner)
    results = load_results(runner.work_dir)
    assert (results.run['id'], results.evaluations) == ('b', [])
    assert results.table.empty


@pytest.mark.parametrize(
    ('change', 'fact'),
    [
        (lambda content: '{', 'expected JSON'),
        (lambda content: '[]', 'expected a dict, got list'),
        (lambda content: content.update(version=2), 'version 1, got mmkdml.results version 2'),
        (lambda content: content.update(version='1'), "version: expected int, got '1'"),
        (lambda content: content['run'].pop('seed'), 'run: seed: expected .*got nothing'),
        (lambda content: content['evaluations'][0].pop('split'), r'evaluations\.0: split'),
        (
            lambda content: content['evaluations'][0]['values'][0].update(value='x'),
            "values: value: expected .*got 'x'",
        ),
    ],
)
def test_invalid_results_raise_and_are_kept(runner, change, fact):
    evaluate(runner, 'epoch_2.pth', {'score': 7})
    path = Path(runner.work_dir, 'results.json')
    content = json.loads(path.read_text())
    text = change(content)
    path.write_text(text if text in ('{', '[]') else json.dumps(content))
    damaged = path.read_text()
    with pytest.raises(ValueError, match=f'results.json.*{fact}'):
        load_results(path)
    assert evaluate(runner, 'epoch_2.pth', {'score': 8}).table.value.tolist() == [8]
    (kept,) = path.parent.glob('results.damaged_*.json')
    assert kept.read_text() == damaged


def test_missing_results_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match='results.json'):
        load_results(tmp_path)
