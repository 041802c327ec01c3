import json
import math
from unittest.mock import Mock

import pandas as pd
import pytest
import torch

from mmkdml.apis.run_settings import difference
from mmkdml.experiments import RunSpec
from mmkdml.experiments.suites.execute import (
    SETTINGS,
    execute,
    read_curves,
    run_config,
    settings_text,
)

CONFIG = 'configs/demo/kdml_v3_demo.py'


def spec(seed=0, **changes):
    return RunSpec('run', seed, CONFIG, **changes)


def test_the_config_of_a_run(tmp_path):
    config = run_config(
        spec(seed=4, options={'train_cfg.max_epochs': 3}, amp=True), tmp_path, 'teachers/seed_4'
    )
    assert config.randomness.seed == 4
    assert config.train_cfg.max_epochs == 3
    assert config.work_dir == str(tmp_path)
    assert config.model.teacher_checkpoint == 'teachers/seed_4'
    if not torch.cuda.is_available():
        assert config.optim_wrapper.type == 'mmkdml.CPUAmpOptimWrapper'


def test_a_classroom_of_any_members_has_its_teacher_among_the_frozen(tmp_path):
    compared = RunSpec('at', 0, 'configs/comparisons/at_r50_r18_lgg.py')
    config = run_config(compared, tmp_path, 'teachers/seed_0')
    assert config.model.frozen == dict(teacher='teachers/seed_0')
    assert 'teacher_checkpoint' not in config.model


@pytest.mark.parametrize(
    ('change', 'equal'),
    [
        (dict(seed=7), True),
        (dict(options={'log_level': 'ERROR'}), True),
        (dict(options={'work_dir': 'x'}), True),
        (dict(options={'model.temperature': 3}), False),
        (dict(options={'train_dataloader.batch_size': 3}), False),
        (dict(options={'train_cfg.max_epochs': 3}), False),
        (dict(teacher='big'), False),
        (dict(amp=True), False),
    ],
)
def test_settings_are_what_decides_the_outcome(change, equal):
    assert (settings_text(spec(**change)) == settings_text(spec())) is equal


def test_a_folder_of_other_settings_is_refused(tmp_path):
    (tmp_path / SETTINGS).write_text(settings_text(spec(options={'model.temperature': 3.0})))
    with pytest.raises(
        ValueError,
        match=r'(?s)a run with other settings:\n  model.temperature: 3\.0 -> .*Move it away',
    ):
        execute(spec(), tmp_path, None, 'none')
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS]


def with_data(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / 'train.csv').write_text(content)
    return spec(options={'train_dataloader.dataset.ann_file': str(folder / 'train.csv')})


def test_data_decide_the_outcome(tmp_path):
    """Also other patients with as many rows, in the place of those of before."""
    first = settings_text(with_data(tmp_path, 'id,a\n'))
    assert settings_text(with_data(tmp_path, 'id,a\n')) == first
    changes = difference(first, settings_text(with_data(tmp_path, 'id,b\n')))
    assert changes.startswith('  data.train: ')
    assert changes.count('\n') == 0
    # A suite can be planned before there are data, which do not differ from none.
    (tmp_path / 'train.csv').unlink()
    assert difference(first, settings_text(with_data(tmp_path / 'x', ''))) != ''
    missing = settings_text(spec(options={'train_dataloader.dataset.ann_file': 'nowhere.csv'}))
    assert json.loads(missing)['data']['train'] is None


def test_data_that_changed_since_the_suite_was_started_are_refused(tmp_path):
    registered = settings_text(with_data(tmp_path / 'data', 'id,a\n'))
    changed = with_data(tmp_path / 'data', 'id,b\n')
    with pytest.raises(
        ValueError, match=r'(?s)changed since the suite was started:\n  data\.train:'
    ):
        execute(changed, tmp_path / 'run', None, 'none', registered)
    assert not (tmp_path / 'run').exists()


def test_the_settings_of_an_earlier_version_are_completed(tmp_path, monkeypatch):
    """It did not know the data, and took the interval of the log for a setting that decides."""
    now = settings_text(spec())
    before = json.loads(now)
    for part in ('data', 'sync_bn', 'val_cfg'):
        del before[part]
    before['default_hooks']['logger'] = dict(type='LoggerHook', interval=3)
    (tmp_path / SETTINGS).write_text(json.dumps(before, indent=1, sort_keys=True))
    monkeypatch.setattr(
        'mmkdml.experiments.suites.execute.make_runner', Mock(side_effect=StopIteration)
    )
    with pytest.raises(StopIteration):
        execute(spec(), tmp_path, None, 'none')
    assert (tmp_path / SETTINGS).read_text() == now


def test_curves_of_a_run_that_was_stopped(tmp_path):
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
        '{"lr": 0.',  # killed while it wrote
        *('\0' * 9, '', '7', '[1]', 'null', '[' * 10**5, '{"loss": 9.0, "step": [1]}'),
        *('{"loss": 9.0, "epoch": "1", "step": 1}', '{"loss": [9.0], "epoch": 1, "step": 1}'),
    )
    attempt(
        '20260101_000100',
        json.dumps({'ensemble/IoU': 50.5, 'step': 1}),
        '{"ensemble/F1": null, "step": 1}',
        json.dumps(dict(lr=0.05, loss=1.0, epoch=2, iter=3, step=3)),
    )
    # It went on in the middle of an epoch, of which both halves count.
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
