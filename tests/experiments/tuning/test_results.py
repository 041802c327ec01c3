import math
import os
import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from mmkdml.apis import load_config, make_runner
from mmkdml.apis.output_folder import OutputFolder
from mmkdml.experiments.tuning.results import (
    derived_config,
    trial_table,
    tried_options,
    write_results,
)
from mmkdml.experiments.tuning.space import SearchSpace

CONFIGS = Path(__file__).parents[3] / 'configs'
CONFIG = CONFIGS / 'kdml' / 'r50_r18x2_v3_lgg.py'
SPACE = SearchSpace(('alpha', 'beta', 'gamma'), lr=(1e-4, 1e-2), temperature=(1, 8))
QUANTILES = {
    f'student_{number}.{letter}_quantile': quantile
    for number, letter, quantile in (
        (1, 'alpha', 0.75), (1, 'beta', 0.2), (2, 'alpha', 0.0), (2, 'beta', 0.5)
    )
}  # fmt: skip
PARAMS = QUANTILES | dict(lr=0.003, temperature=4.5)
DISTRIBUTIONS = dict.fromkeys(QUANTILES, FloatDistribution(0, 1)) | dict(
    lr=FloatDistribution(1e-4, 1e-2, log=True), temperature=FloatDistribution(1, 8)
)


def settings(path, options):
    """Settings of a config without the folder of the run."""
    config = load_config(path, options).to_dict()
    del config['work_dir']
    return config


@pytest.fixture
def study():
    study = optuna.create_study(direction='maximize')
    for value, state, params, error in [
        (70.0, TrialState.COMPLETE, PARAMS | dict(temperature=1.0), {}),
        (80.0, TrialState.COMPLETE, PARAMS, dict(error='of an earlier attempt')),
        (None, TrialState.FAIL, {}, dict(error='ValueError: nan')),
        (None, TrialState.PRUNED, PARAMS, {}),
        (None, TrialState.FAIL, dict(lr=0.003), {}),  # killed before all were suggested
    ]:
        values = {1: 10.0, 2: 20.0} if state != TrialState.FAIL else {}
        study.add_trial(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions={key: DISTRIBUTIONS[key] for key in params},
                user_attrs=error,
                intermediate_values=values,
            )
        )
    return study


def test_table_of_trials(study):
    table = trial_table(study.trials, SPACE)
    assert table.columns.tolist() == [
        'trial', 'state', 'value', 'alpha_1', 'alpha_2', 'beta_1', 'beta_2', 'gamma_1', 'gamma_2',
        'lr', 'temperature', 'validations', 'seconds', 'error',
    ]  # fmt: skip
    assert table['state'].tolist() == ['complete', 'complete', 'fail', 'pruned', 'fail']
    assert table['error'].dropna().to_dict() == {2: 'ValueError: nan'}
    assert table['validations'].tolist() == [2, 2, 0, 2, 0]
    assert table.loc[1, ['value', 'beta_1', 'lr', 'temperature']].tolist() == [80, 0.1, 0.003, 4.5]
    assert table.loc[[2, 4], ['value', 'alpha_1', 'lr']].isna().all(axis=None)


@pytest.mark.parametrize(
    ('name', 'value'),
    [('student_1.alpha_quantile', 'os.system'), ('lr', 'x'), ('temperature', '1'), ('lr', None)],
)
def test_manipulated_database_puts_only_numbers_into_a_config(name, value, tmp_path):
    study = optuna.create_study(direction='maximize')
    study.add_trial(
        create_trial(
            value=1.0,
            params=PARAMS | {name: value},
            distributions=DISTRIBUTIONS | {name: CategoricalDistribution([value])},
        )
    )
    with pytest.raises(ValueError, match=f'(?s)trial 0 .*{value}'):
        write_results(study, study.trials, SPACE, 'metric', CONFIG, {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_written_files(study, tmp_path):
    options = {'model.kl_scale': 'temperature_squared'}
    files = write_results(study, study.trials, SPACE, 'ensemble/IoU', CONFIG, options, tmp_path)
    table, config, picture = files
    pd.testing.assert_frame_equal(
        pd.read_csv(table), trial_table(study.trials, SPACE), check_dtype=False
    )
    assert picture.read_bytes()[:4] == b'\x89PNG'
    title = config.read_text().splitlines()[0]
    assert 'best of 2 complete trials: ensemble/IoU 80 in trial 1, validation' in title

    # The settings of the trial, which differ from the original only in what was searched.
    tuned = Config.fromfile(config).to_dict()
    assert tuned == settings(CONFIG, options | tried_options(study.trials[1], SPACE))
    original = Config.fromfile(CONFIG).to_dict()
    assert tuned['model']['weights'] == dict(alpha=(0.5, 0.0), beta=(0.1, 0.5), gamma=(0.4, 0.5))
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
def test_derived_config_has_the_options(options, tmp_path):
    (tmp_path / 'derived.py').write_text(derived_config(CONFIG, options, tmp_path, 'Title.'))
    derived = Config.fromfile(tmp_path / 'derived.py').to_dict()
    assert derived == settings(CONFIG, options)
    assert derived != Config.fromfile(CONFIG).to_dict()


NAMES = ['plain', 'my-configs', '2nd', 'try', 'mmkdml-1.0', 'with space', 'Größe', "it's"]


@pytest.mark.parametrize('name', NAMES)
def test_derived_config_is_independent_of_folders(tmp_path, name):
    """Also after the base is removed and the results are moved."""
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
    # A test or another search can start from it.
    assert settings(best, {'model.temperature': 5.0})['model']['temperature'] == 5.0


def test_runner_is_built_from_derived_config(tmp_path):
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
def test_derived_config_can_be_inherited(tmp_path, text):
    options = {'model.temperature': 4.0}
    (tmp_path / 'best.py').write_text(derived_config(CONFIG, options, tmp_path, 'Title.'))
    (tmp_path / 'own.py').write_text(text)
    own = Config.fromfile(tmp_path / 'own.py')
    assert (own.model.temperature, own.train_cfg.max_epochs) == (4.0, 3)


def test_comment_lists_base_and_changes(tmp_path):
    (tmp_path / 'a.py').write_text('tta_model = dict(a=1)\n')
    (tmp_path / 'out').mkdir()
    text = derived_config(tmp_path / 'a.py', {'tta_model.a': 2}, tmp_path / 'out', 'Title.')
    assert text.splitlines()[0] == "'Title.'"
    assert f'All settings of {os.path.join("..", "a.py")!r}' in text
    assert "'tta_model.a': 2" in text


@pytest.mark.parametrize('name', ['a.py', 'a.json', 'a.yaml'])
def test_base_of_every_format(tmp_path, name):
    (tmp_path / 'b.py').write_text('other = 1\n')
    (tmp_path / name).write_text(
        {
            'a.py': "_base_ = ['b.py']\ntta_model = dict(a=1)\n",
            'a.json': '{"_base_": "b.py", "tta_model": {"a": 1}}',
            'a.yaml': '_base_: b.py\ntta_model:\n  a: 1\n',
        }[name]
    )
    text = derived_config(tmp_path / name, {'tta_model.a': 2}, tmp_path, 'Title.')
    (tmp_path / 'best.py').write_text(text)
    best = Config.fromfile(tmp_path / 'best.py')
    assert (best.tta_model, best.other) == (dict(a=2), 1)


def test_order_of_settings_and_values_of_numbers_are_kept(tmp_path):
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


def test_undecodable_file_name(tmp_path):
    """The derived config is UTF-8 even if the name of its base is not."""
    path = tmp_path / os.fsdecode(b'a\xff.py')
    path.write_text('tta_model = dict(a=1)\n')
    text = derived_config(path, {'tta_model.a': 2}, tmp_path, f'{path.name}, best.')
    (tmp_path / 'best.py').write_bytes(text.encode())
    assert Config.fromfile(tmp_path / 'best.py').tta_model == dict(a=2)


@pytest.mark.parametrize(
    ('scores', 'is_decided'),
    [([0.0], False), ([0.0, 0.0], False), ([7.0, 7.0, 7.0], False), ([7.0], True), ([0, 1], True)],
)
def test_equal_scores_choose_no_config(scores, is_decided, tmp_path, capsys):
    study = optuna.create_study(direction='maximize')
    for score in scores:
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE, value=score, params=PARAMS, distributions=DISTRIBUTIONS
            )
        )
    tuned = tmp_path / f'{CONFIG.stem}_tuned.py'
    with OutputFolder(tmp_path).writing(tuned) as part:
        part.write_text('# of an earlier search')
    files = write_results(study, study.trials, SPACE, 'ensemble/IoU', CONFIG, {}, tmp_path)
    assert (tuned in files) == is_decided == tuned.exists()
    assert (tmp_path / 'trials.csv') in files
    assert ('ensemble/IoU' in capsys.readouterr().out) != is_decided
