import math
import os
import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from optuna.trial import TrialState, create_trial

from mmkdml.apis import load_config, make_runner
from mmkdml.experiments.tuning.results import (
    derived_config,
    trial_table,
    tried_options,
    write_results,
)

CONFIGS = Path(__file__).parents[3] / 'configs'
CONFIG = CONFIGS / 'kdml' / 'r50_r18x2_v3_lgg.py'
TRIED = {
    'model.weights.alpha': [0.1, 0.2],
    'model.weights.beta': [0.5, 0.4],
    'model.weights.gamma': [0.4, 0.4],
    'optim_wrapper.optimizer.lr': 0.003,
    'model.temperature': 4.5,
}


def settings(path, options):
    """Settings of a run of a config, without its folder."""
    config = load_config(path, options).to_dict()
    del config['work_dir']
    return config


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
    tuned = Config.fromfile(config).to_dict()
    assert tuned == settings(CONFIG, options | tried_options(study.trials[1]))
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
        {'compile.options.backend': 1, 'train_cfg.max_epochs': 3},
        {'load_from': 'a.pth'},
        {'model.losses.features.type': 'FeatureMSELoss', 'model.losses.features.weight': 2.0},
        {'model.mode': 'ml', 'model.weights.beta': None},
    ],
)
def test_any_option_can_be_changed(options, tmp_path):
    (tmp_path / 'derived.py').write_text(derived_config(CONFIG, options, tmp_path, 'Title.'))
    derived = Config.fromfile(tmp_path / 'derived.py').to_dict()
    assert derived == settings(CONFIG, options)
    assert derived != Config.fromfile(CONFIG).to_dict()


NAMES = ['plain', 'my-configs', '2nd', 'try', 'mmkdml-1.0', 'with space', 'Größe', "it's"]


@pytest.mark.parametrize('name', NAMES)
def test_no_place_matters(tmp_path, name):
    """Neither that of the base, nor that of the results, nor that they stay there."""
    base = tmp_path / name / 'mmkdml-main' / 'configs'
    shutil.copytree(CONFIGS / '_base_', base / '_base_')
    shutil.copytree(CONFIGS / 'demo', base / 'demo')
    out = tmp_path / 'results' / name
    out.mkdir(parents=True)
    text = derived_config(base / 'demo' / 'kdml_v3_demo.py', {'model.temperature': 4.0}, out, name)
    (out / 'best-1.py').write_text(text)
    expected = settings(base / 'demo' / 'kdml_v3_demo.py', {'model.temperature': 4.0})
    shutil.rmtree(base)
    (tmp_path / 'results').rename(tmp_path / 'moved')
    best = tmp_path / 'moved' / name / 'best-1.py'
    assert Config.fromfile(best).to_dict() == expected
    # It is what a test or another search starts from, too.
    assert settings(best, {'model.temperature': 5.0})['model']['temperature'] == 5.0


def test_a_run_can_be_made_of_it(tmp_path):
    options = {'model.temperature': 4.0}
    base = CONFIGS / 'demo' / 'kdml_v3_demo.py'
    (tmp_path / 'best.py').write_text(derived_config(base, options, tmp_path, 'Title.'))
    config = load_config(tmp_path / 'best.py', work_dir=tmp_path / 'run')
    assert make_runner(config).model.mode == 'kdml'
    for part in ('train', 'val', 'test'):
        Compose(config[f'{part}_dataloader'].dataset.pipeline)


@pytest.mark.parametrize(
    'text',
    [
        'from mmengine.config import read_base\nwith read_base():\n    from .best import *\n'
        "train_cfg['max_epochs'] = 3\n",
        "_base_ = ['best.py']\ntrain_cfg = dict(max_epochs=3)\n",
    ],
)
def test_it_can_be_derived_from(tmp_path, text):
    options = {'model.temperature': 4.0}
    (tmp_path / 'best.py').write_text(derived_config(CONFIG, options, tmp_path, 'Title.'))
    (tmp_path / 'own.py').write_text(text)
    own = Config.fromfile(tmp_path / 'own.py')
    assert (own.model.temperature, own.train_cfg.max_epochs) == (4.0, 3)


def test_it_says_what_differs_from_which_config(tmp_path):
    (tmp_path / 'a.py').write_text('value = dict(a=1)\n')
    (tmp_path / 'out').mkdir()
    text = derived_config(tmp_path / 'a.py', {'value.a': 2}, tmp_path / 'out', 'Title.')
    assert text.splitlines()[0] == "'Title.'"
    assert f'All settings of {os.path.join("..", "a.py")!r}' in text
    assert "'value.a': 2" in text


@pytest.mark.parametrize('name', ['a.py', 'a.json', 'a.yaml'])
def test_configs_of_other_kinds(tmp_path, name):
    (tmp_path / 'b.py').write_text('other = 1\n')
    (tmp_path / name).write_text(
        {
            'a.py': "_base_ = ['b.py']\nvalue = dict(a=1)\n",
            'a.json': '{"_base_": "b.py", "value": {"a": 1}}',
            'a.yaml': '_base_: b.py\nvalue:\n  a: 1\n',
        }[name]
    )
    text = derived_config(tmp_path / name, {'value.a': 2}, tmp_path, 'Title.')
    (tmp_path / 'best.py').write_text(text)
    best = Config.fromfile(tmp_path / 'best.py')
    assert (best.value, best.other) == (dict(a=2), 1)


def test_members_keep_their_order_and_numbers_their_values(tmp_path):
    (tmp_path / 'a.py').write_text(
        "model = dict(zebra=(1,), ape=[], none=None, huge=float('inf'), low=-float('inf'),\n"
        "             unknown=float('nan'), tiny=1e-300, third=1 / 3)\n"
    )
    (tmp_path / 'best.py').write_text(derived_config(tmp_path / 'a.py', {}, tmp_path, 'Title.'))
    model = Config.fromfile(tmp_path / 'best.py').model.to_dict()
    assert list(model) == ['zebra', 'ape', 'none', 'huge', 'low', 'unknown', 'tiny', 'third']
    assert math.isnan(model.pop('unknown'))
    assert model == dict(
        zebra=(1,), ape=[], none=None, huge=math.inf, low=-math.inf, tiny=1e-300, third=1 / 3
    )


def test_a_name_that_is_no_text(tmp_path):
    """File names may be bytes that are not text; the best config is UTF-8 all the same."""
    path = tmp_path / os.fsdecode(b'a\xff.py')
    path.write_text('value = dict(a=1)\n')
    text = derived_config(path, {'value.a': 2}, tmp_path, f'{path.name}, best.')
    (tmp_path / 'best.py').write_bytes(text.encode())
    assert Config.fromfile(tmp_path / 'best.py').value == dict(a=2)
