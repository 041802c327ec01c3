import json

import pytest
import torch

from mmkdml.experiments import RunSpec
from mmkdml.experiments.run_spec import (
    has_data_hashes,
    run_config,
    set_teacher,
    settings_changes,
    settings_text,
)

CONFIG = 'configs/demo/kdml_v3_demo.py'


def spec(seed=0, **changes):
    return RunSpec('run', seed, CONFIG, **changes)


def text(spec):
    return settings_text(run_config(spec))


def test_run_config_has_seed_options_precision_and_folder(tmp_path):
    config = run_config(spec(seed=4, options={'train_cfg.max_epochs': 3}, amp=True), tmp_path)
    assert config.randomness.seed == 4
    assert config.train_cfg.max_epochs == 3
    assert config.work_dir == str(tmp_path)
    if not torch.cuda.is_available():
        assert config.optim_wrapper.type == 'mmkdml.CPUAmpOptimWrapper'


def test_teacher_is_set_by_name_and_then_by_folder():
    config = run_config(spec(teacher='big'))
    assert config.model.teacher_checkpoint == 'big'
    set_teacher(config, 'teachers/seed_4')
    assert config.model.teacher_checkpoint == 'teachers/seed_4'


def test_teacher_of_classroom_with_named_members_is_set_in_frozen():
    config = run_config(RunSpec('at', 0, 'configs/comparisons/at_r50_r18_lgg.py'))
    set_teacher(config, 'teachers/seed_0')
    assert config.model.frozen == dict(teacher='teachers/seed_0')
    assert 'teacher_checkpoint' not in config.model


def test_teacher_of_config_without_teacher_raises():
    config = run_config(RunSpec('r18', 0, 'configs/demo/student_demo.py'))
    with pytest.raises(ValueError, match='teacher_checkpoint'):
        set_teacher(config, 'teachers/seed_0')


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
def test_settings_text_has_only_settings_that_decide_the_result(change, equal):
    assert (text(spec(**change)) == text(spec())) is equal


def test_settings_text_has_hashes_of_data(tmp_path):
    split = tmp_path / 'train.csv'
    with_data = spec(options={'train_dataloader.dataset.ann_file': str(split)})

    def text_with(content):
        split.write_text(content)
        return text(with_data)

    first = text_with('id,a\n')
    assert text_with('id,a\n') == first
    changes = settings_changes(first, text_with('id,b\n'))  # as many rows, other patients
    assert changes.startswith('  data.train: ')
    assert changes.count('\n') == 0
    # A suite can be registered before its data exist.
    split.unlink()
    missing = text(with_data)
    assert json.loads(missing)['data']['train'] is None
    assert settings_changes(missing, first) == ''


def test_settings_texts_of_earlier_versions_are_compared():
    """They lack data hashes, have settings without effect, or begin with the lines of a search."""
    old = 'tied: true\n' + json.dumps(
        dict(
            model=dict(mode='kdml'),
            train_dataloader=dict(num_workers=4, batch_size=2),
            default_hooks=dict(logger=dict(type='mmengine.hooks.LoggerHook', interval=1)),
        ),
        indent=1,
    )
    new = dict(
        model=dict(mode='kdml'), train_dataloader=dict(batch_size=2), default_hooks={},
        sync_bn=None, data=dict(train='aa'),
    )  # fmt: skip
    now = 'tied: true\n' + json.dumps(new, indent=1)
    assert settings_changes(old, now) == ''
    assert (has_data_hashes(old), has_data_hashes(now)) == (False, True)
    assert not has_data_hashes(json.dumps(dict(data=dict(train=None))))
    assert settings_changes(old, now.replace('true', 'false')) == '  tied: True -> False'
    changed = json.dumps(dict(new, model=dict(mode='kd_off')), indent=1)
    assert settings_changes(old, changed) == "  model.mode: 'kdml' -> 'kd_off'"


@pytest.mark.parametrize('damaged', ['{', '[' * 10**5, '[1]', 'a: {', '7'])
def test_damaged_settings_text_differs_from_all_but_itself(damaged):
    assert 'damaged' in settings_changes(damaged, '{}')
    assert settings_changes(damaged, damaged) == ''
    assert not has_data_hashes(damaged)


def test_changes_of_weight_schedules_are_listed():
    key = 'model.weight_schedules'
    schedule = dict(beta=dict(type='LinearWeight', start_factor=0.0, end=3))
    plain, scheduled, longer = (
        text(spec(options=options))
        for options in ({}, {key: schedule}, {key: schedule, 'model.weights.beta': (0.1, 0.2)})
    )
    assert 'LinearWeight' in settings_changes(plain, scheduled)
    assert settings_changes(scheduled, scheduled) == ''
    changes = settings_changes(scheduled, longer).splitlines()
    assert [line.split(':')[0].strip() for line in changes] == [
        'model.weights.beta.0', 'model.weights.beta.1'
    ]  # fmt: skip
