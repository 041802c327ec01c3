import json
import math
from unittest.mock import Mock

import pandas as pd
import pytest

import mmkdml.apis
from mmkdml.datasets import convert_lgg
from mmkdml.datasets.splits import SplitRow, fold_rows, write_folds
from mmkdml.datasets.synthetic import make_demo_data
from mmkdml.experiments import RunSpec
from mmkdml.experiments.run_spec import run_config, settings_text
from mmkdml.experiments.suites.execution import execute as execution
from mmkdml.experiments.suites.execution.execute import SETTINGS, execute, read_curves
from mmkdml.experiments.suites.fold_runs import fold_runs
from mmkdml.experiments.suites.serialization import RESULT, deserialize_result

CONFIG = 'configs/demo/kdml_v3_demo.py'


def spec(**options):
    return RunSpec('run', 0, CONFIG, options)


def text(spec):
    return settings_text(run_config(spec))


@pytest.fixture
def make_runner(monkeypatch):
    """Replacement for the function that builds the runner; it stops the execution."""
    mock = Mock(side_effect=StopIteration)
    monkeypatch.setattr(execution, 'make_runner', mock)
    return mock


def test_folder_of_run_with_other_settings_raises(tmp_path):
    (tmp_path / SETTINGS).write_text(text(spec(**{'model.temperature': 3.0})))
    with pytest.raises(ValueError, match=r'model.temperature: 3\.0 -> '):
        execute(spec(), tmp_path, None, 'none')
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS]


def test_data_changed_since_the_start_of_the_suite_raise(tmp_path):
    split = tmp_path / 'train.csv'
    split.write_text('id,a\n')
    run = spec(**{'train_dataloader.dataset.ann_file': str(split)})
    registered = text(run)
    split.write_text('id,b\n')
    with pytest.raises(ValueError, match=r'data\.train:'):
        execute(run, tmp_path / 'run', None, 'none', registered)
    assert not (tmp_path / 'run').exists()


def test_settings_file_of_an_earlier_version_is_completed(tmp_path, make_runner):
    now = text(spec())
    before = json.loads(now)
    for part in ('data', 'sync_bn', 'val_cfg'):
        del before[part]
    before['default_hooks']['logger'] = dict(type='LoggerHook', interval=3)
    (tmp_path / SETTINGS).write_text(json.dumps(before, indent=1, sort_keys=True))
    with pytest.raises(StopIteration):
        execute(spec(), tmp_path, None, 'none')
    assert (tmp_path / SETTINGS).read_text() == now


def test_config_is_loaded_once_and_has_the_folder_of_the_teacher(
    tmp_path, make_runner, monkeypatch
):
    load = Mock(side_effect=mmkdml.apis.load_config)
    monkeypatch.setattr(mmkdml.apis, 'load_config', load)
    run = RunSpec('run', 0, CONFIG, teacher='big')
    with pytest.raises(StopIteration):
        execute(run, tmp_path, tmp_path / 'big', 'none')
    assert load.call_count == 1
    (config, launcher), _ = make_runner.call_args
    assert (config.model.teacher_checkpoint, launcher) == (str(tmp_path / 'big'), 'none')
    # The folder does not affect the result.
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert settings['model']['teacher_checkpoint'] == 'big'


def test_curves_of_an_interrupted_run(tmp_path):
    def attempt(name, *lines):
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text('\n'.join(lines))

    attempt(
        '20260101_000000',
        json.dumps(dict(lr=0.1, loss=4.0, epoch=1, iter=1, step=1, time=9.0, memory=3)),
        json.dumps(dict(lr=0.1, loss=2.0, epoch=1, iter=2, step=2)),
        json.dumps({'ensemble/IoU': 50.0, 'step': 1}),
        json.dumps(dict(lr=0.1, loss=100.0, epoch=2, iter=3, step=3)),
        '{"lr": 0.',  # killed while writing
        *('\0' * 9, '', '7', '[1]', 'null', '[' * 10**5, '{"loss": 9.0, "step": [1]}'),
        *('{"loss": 9.0, "epoch": "1", "step": 1}', '{"loss": [9.0], "epoch": 1, "step": 1}'),
    )
    attempt(
        '20260101_000100',
        json.dumps({'ensemble/IoU': 50.5, 'step': 1}),
        '{"ensemble/F1": null, "step": 1}',
        json.dumps(dict(lr=0.05, loss=1.0, epoch=2, iter=3, step=3)),
    )
    # Resumed in the middle of an epoch: both halves count.
    attempt('20260101_000200', json.dumps(dict(lr=0.05, loss=7.0, epoch=2, iter=4, step=4)))
    expected = pd.DataFrame(
        [
            (1, 'ensemble/F1', math.nan),
            (1, 'ensemble/IoU', 50.5),
            (1, 'loss', 3.0),
            (1, 'lr', 0.1),
            (2, 'loss', 4.0),
            (2, 'lr', 0.05),
        ],
        columns=['epoch', 'key', 'value'],
    )
    pd.testing.assert_frame_equal(read_curves(tmp_path), expected)
    assert read_curves(tmp_path / 'nowhere').empty


def test_out_of_fold_teachers_are_assigned_before_the_training(tmp_path, make_runner):
    rows = [SplitRow(name, f'{name}.png', name, 0) for name in 'abcdef']
    write_folds(tmp_path / 'splits', fold_rows(rows, 3, (1, 1, 0)), {})
    options = {
        f'{part}_dataloader.dataset.ann_file': str(tmp_path / 'splits' / f'{part}.csv')
        for part in ('train', 'val', 'test')
    }
    run = RunSpec('kd', 0, CONFIG, options, fold=1, fold_teachers=('big/0_1', None, 'big/1_2'))
    folders = [tmp_path / 'big' / '0_1', None, tmp_path / 'big' / '1_2']
    (tmp_path / 'kd').mkdir()
    with pytest.raises(StopIteration):
        execute(run, tmp_path / 'kd', folders, 'none')
    (config, _), _ = make_runner.call_args
    table = tmp_path / 'kd' / 'teachers.json'
    assert config.model.teacher_checkpoint == str(table)
    assert json.loads(table.read_text())['checkpoints'] == ['../big/0_1', '../big/1_2']
    settings = json.loads((tmp_path / 'kd' / SETTINGS).read_text())
    assert settings['model']['teacher_checkpoint'] == 'big/0_1 big/1_2'


@pytest.mark.slow
def test_student_of_out_of_fold_teachers(tmp_path):
    """Real trainings of the teachers of fold 0 and of its student."""
    source = make_demo_data(tmp_path / 'kaggle_3m', patients=12, slices=1, size=64)
    splits = convert_lgg(source, tmp_path / 'splits', ratios=(50, 50, 0), folds=3)
    options = {
        'train_cfg.max_epochs': 1,
        'param_scheduler.T_max': 1,
        'default_hooks.logger.interval': 1,
    }
    for part in ('train', 'val', 'test'):
        options |= {
            f'{part}_dataloader.dataset.data_root': str(source),
            f'{part}_dataloader.dataset.ann_file': str(tmp_path / 'splits' / f'{part}.csv'),
        }
    student = {**options, 'model.mode': 'kd_off', 'model.weights.gamma': None}
    runs = [
        RunSpec('big', 0, 'configs/demo/teacher_demo.py', options),
        RunSpec('kd', 0, 'configs/demo/kdml_v3_demo.py', student, 'big'),
    ]
    specs = {run.name: run for run in fold_runs(runs, 3, ['kd'])}
    for name in ('big/fold_0_1', 'big/fold_0_2', 'kd/fold_0'):
        teachers = [one and tmp_path / one for one in specs[name].fold_teachers]
        execute(specs[name], tmp_path / name, teachers or None, 'none')
    _, _, teacher = deserialize_result((tmp_path / 'big' / 'fold_0_1' / RESULT).read_bytes())
    left_out = {row.id for fold in (0, 1) for row in splits[f'fold_{fold}/test']}
    assert teacher['splits']['train']['images'] + teacher['splits']['val']['images'] == 12 - 8
    assert 'without=' in teacher['command']
    measured, _, metadata = deserialize_result((tmp_path / 'kd/fold_0' / RESULT).read_bytes())
    assert {*measured['last'].cases.id} == {row.id for row in splits['fold_0/test']} < left_out
    assert {'teacher', 'student_1', 'ensemble'} <= {*measured['last'].cases.member}
    (log,) = (tmp_path / 'kd' / 'fold_0').glob('*/*.log')
    assert 'student_1.loss_from_teacher' in log.read_text()
    assert 'teachers.json' in metadata['command']
    assert metadata['command'].count('--fold 0') == 1
