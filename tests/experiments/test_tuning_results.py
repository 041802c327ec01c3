import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mmengine.config import Config
from optuna.trial import TrialState, create_trial

from mmkdml.apis import load_config
from mmkdml.experiments.tuning_results import (
    derived_config,
    relative_module,
    trial_table,
    tried_options,
    write_results,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
CONFIG = CONFIGS / 'kdml' / 'r50_r18x2_v3_lgg.py'
TRIED = {
    'model.weights.alpha': [0.1, 0.2],
    'model.weights.beta': [0.5, 0.4],
    'model.weights.gamma': [0.4, 0.4],
    'optim_wrapper.optimizer.lr': 0.003,
    'model.temperature': 4.5,
}


@pytest.fixture
def study():
    study = optuna.create_study(direction='maximize')
    for value, state, attrs in [
        (70.0, TrialState.COMPLETE, dict(options=TRIED | {'model.temperature': 1.0})),
        (80.0, TrialState.COMPLETE, dict(options=TRIED, error='of an earlier attempt')),
        (None, TrialState.FAIL, dict(error='ValueError: nan')),
        (None, TrialState.PRUNED, dict(options=TRIED)),
    ]:
        values = {1: 10.0, 2: 20.0} if state != TrialState.FAIL else {}
        study.add_trial(
            create_trial(state=state, value=value, user_attrs=attrs, intermediate_values=values)
        )
    return study


def test_table(study):
    table = trial_table(study.trials)
    assert table.columns.tolist() == [
        'trial', 'state', 'value', 'alpha_1', 'alpha_2', 'beta_1', 'beta_2', 'gamma_1', 'gamma_2',
        'lr', 'temperature', 'validations', 'seconds', 'error',
    ]  # fmt: skip
    assert table['state'].tolist() == ['complete', 'complete', 'fail', 'pruned']
    assert table['error'].dropna().to_dict() == {2: 'ValueError: nan'}
    assert table['validations'].tolist() == [2, 2, 0, 2]
    assert table.loc[1, ['value', 'beta_1', 'lr', 'temperature']].tolist() == [80, 0.5, 0.003, 4.5]
    assert table.loc[2, ['value', 'alpha_1']].isna().all()


@pytest.mark.parametrize(
    'options',
    [
        {'exec("import os")#': 1},
        {'model.type': 'os.system'},
        {'model.weights.alpha': ['x', 0.2]},
        {'model.weights.alpha': [[0.1], 0.2]},
        {'model.weights.alpha': True},
        {'model.weights.alpha.beta': 0.1},
        {'optim_wrapper.optimizer.lr\n': 0.1},
        {'optim_wrapperXoptimizer.lr': 0.1},
        {'': 0.1},
    ],
)
def test_a_database_puts_nothing_but_numbers_into_a_config(options, tmp_path):
    trial = create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs=dict(options=options))
    study = optuna.create_study(direction='maximize')
    study.add_trial(trial)
    with pytest.raises(ValueError, match='(?s)trial 0 in the database tried .*, which no se'):
        write_results(study, study.trials, 'metric', CONFIG, {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_results(study, tmp_path):
    options = {'model.kl_scale': 'temperature_squared'}
    files = write_results(study, study.trials, 'ensemble/IoU', CONFIG, options, tmp_path)
    table, config, picture = files
    pd.testing.assert_frame_equal(pd.read_csv(table), trial_table(study.trials), check_dtype=False)
    assert picture.read_bytes()[:4] == b'\x89PNG'
    title = config.read_text().splitlines()[0]
    assert 'best of 2 complete trials: ensemble/IoU 80 in trial 1, validation' in title

    # It is what the trial trained, and the original but for what was searched.
    expected = load_config(CONFIG, options | tried_options(study.trials[1]), '').to_dict()
    assert expected.pop('work_dir') == ''
    tuned = Config.fromfile(config).to_dict()
    assert tuned == expected
    original = Config.fromfile(CONFIG).to_dict()
    assert tuned['model']['weights'] == dict(alpha=(0.1, 0.2), beta=(0.5, 0.4), gamma=(0.4, 0.4))
    for key in ('weights', 'temperature', 'kl_scale'):
        original['model'][key] = tuned['model'][key]
    assert original['optim_wrapper']['optimizer']['lr'] == 1e-4
    original['optim_wrapper']['optimizer']['lr'] = 0.003
    assert tuned == original


@pytest.mark.parametrize(
    'options',
    [
        {'custom_hooks.1.priority': 'LOW'},
        {'new.part.of': 1, 'train_cfg.max_epochs': 3},
        {'load_from': 'a.pth'},
        {'model.losses.features.type': 'FeatureMSELoss', 'model.losses.features.weight': 2.0},
        {'model.mode': 'ml', 'model.weights.beta': None},
    ],
)
def test_any_option_can_be_inherited(options, tmp_path):
    (tmp_path / 'derived.py').write_text(derived_config(CONFIG, options, tmp_path, 'Title.'))
    derived = Config.fromfile(tmp_path / 'derived.py').to_dict()
    assert derived == {
        key: value for key, value in load_config(CONFIG, options).to_dict().items()
        if key != 'work_dir'
    }  # fmt: skip
    assert derived != Config.fromfile(CONFIG).to_dict()


@pytest.mark.parametrize(
    ('path', 'folder', 'module'),
    [
        ('configs/kdml/a.py', 'configs/kdml', '.a'),
        ('configs/kdml/a.py', 'configs', '.kdml.a'),
        ('configs/kdml/a.py', 'work_dirs/tune-1/x', '....configs.kdml.a'),
        ('a.py', 'out', '..a'),
    ],
)
def test_the_way_to_a_config(tmp_path, path, folder, module):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    file.write_text('value = dict(a=1)\n')
    assert relative_module(file, tmp_path / folder) == module
    derived = tmp_path / folder / 'derived.py'
    derived.write_text(derived_config(file, {'value.a': 2}, derived.parent, 'Title.'))
    assert Config.fromfile(derived).value == dict(a=2)


def test_the_way_through_a_link(tmp_path):
    (tmp_path / 'deep' / 'er').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'deep' / 'er')
    (tmp_path / 'a.py').write_text('value = dict(a=1)\n')
    derived = tmp_path / 'link' / 'derived.py'
    derived.write_text(derived_config(tmp_path / 'a.py', {'value.a': 2}, derived.parent, 'Title.'))
    assert Config.fromfile(derived).value == dict(a=2)


@pytest.mark.parametrize('name', ['my-configs', 'class', '2nd'])
def test_a_way_that_python_cannot_go(tmp_path, name):
    (tmp_path / name).mkdir()
    shutil.copy(CONFIGS / '_base_' / 'schedules' / 'adam_30e.py', tmp_path / name / 'a.py')
    with pytest.raises(ValueError, match=f"inherit .* but '{name}' on the way is no name"):
        relative_module(tmp_path / name / 'a.py', tmp_path / 'out')
    assert relative_module(tmp_path / name / 'a.py', tmp_path / name / 'out') == '..a'


@pytest.mark.parametrize(('name', 'text'), [('a.py', "_base_ = ['b.py']\n"), ('a.yaml', 'a: 1\n')])
def test_configs_of_another_kind(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / 'b.py').write_text('b = 1\n')
    with pytest.raises(ValueError, match='takes pure Python configs only'):
        relative_module(tmp_path / name, tmp_path)
