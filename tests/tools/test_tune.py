import json
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mmengine.config import Config
from optuna.trial import TrialState

from mmkdml.apis import load_config
from mmkdml.experiments.tuning import study as tuning_study
from mmkdml.experiments.tuning import tuner as tuning

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'
METRIC = 'ensemble/foreground/IoU'


def logged(folder):
    """Return the metric of all validations of a trial from its log."""
    (path,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[METRIC] for line in lines if METRIC in line]


@pytest.mark.slow
def test_search(tool, data_options, tmp_path, capsys, monkeypatch):
    # Two trials near their initialization may have the same score.
    monkeypatch.setattr('mmkdml.experiments.tuning.results.no_best', lambda *_: '')
    options = [
        *data_options,
        'test_dataloader.dataset.ann_file=nowhere.csv',  # the test split is not used
        'optim_wrapper.optimizer.lr=1e-6',  # stays near its random initialization
    ]
    arguments = ['--sampler', 'tpe', '--temperature', 1, 8, '--epochs', 2, '--out', tmp_path]
    tool('tune', CONFIG, '--trials', 2, *arguments, options=options, experiment=False)
    files = ['trials.csv', 'kdml_v3_demo_tuned.py', 'landscape.png']
    assert capsys.readouterr().out.endswith(
        ''.join(f'Written: {tmp_path / file}\n' for file in files)
    )
    table = pd.read_csv(tmp_path / 'trials.csv')
    assert table['state'].tolist() == ['complete', 'complete']
    assert table['validations'].tolist() == [2, 2]
    assert table['value'].max() > 0
    for trial, value in enumerate(table['value']):
        measured = logged(tmp_path / f'trial_{trial}')
        assert len(measured) == 2
        assert value == pytest.approx(max(measured), rel=1e-6)

    # The best config is that of its trial, except for the number of epochs.
    best = table['value'].idxmax()
    (kept,) = {path.parent.name for path in tmp_path.glob('trial_*/*.pth')}
    assert kept == f'trial_{best}'
    tuned = Config.fromfile(tmp_path / 'kdml_v3_demo_tuned.py').to_dict()
    trained = Config.fromfile(tmp_path / kept / CONFIG.name).to_dict()
    assert tuned['model'] == trained['model']
    for letter in ('alpha', 'beta', 'gamma'):
        pair = tuple(table.loc[best, [f'{letter}_1', f'{letter}_2']])
        assert tuned['model']['weights'][letter] == pair
    assert tuned['model']['temperature'] == table.loc[best, 'temperature']
    assert tuned['train_cfg']['max_epochs'] == 24
    assert trained['train_cfg']['max_epochs'] == 2
    assert tuned['train_dataloader'] == trained['train_dataloader']
    assert trained['test_dataloader'] is None
    original = load_config(CONFIG).to_dict()
    assert tuned['val_evaluator'] == original['val_evaluator']

    # No trial is left.
    tool('tune', CONFIG, '--trials', 2, *arguments, options=options, experiment=False)
    assert len(pd.read_csv(tmp_path / 'trials.csv')) == 2
    with pytest.raises(SystemExit) as stopped:
        tool('tune', CONFIG, '--tied', *arguments, options=options, experiment=False)
    assert str(stopped.value).startswith('tune.py: error: Study demo_kdml_v3_demo was')
    assert 'tied: False -> True' in str(stopped.value)


@pytest.mark.slow
def test_killed_search_continues(tool, forked_script, data_options, tmp_path, monkeypatch):
    arguments = [CONFIG, '--tied', '--trials', 2, '--epochs', 2, '--out', tmp_path]
    command = [ROOT / 'tools' / 'tune.py', *arguments, '--cfg-options', *data_options]
    process = forked_script(tmp_path / 'output', *command)
    while not (tmp_path / 'trial_1' / 'epoch_1.pth').exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    url = f'sqlite:///{tmp_path / "tune.db"}'
    states = [trial.state for trial in optuna.load_study(study_name=None, storage=url).trials]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING]

    monkeypatch.setattr(tuning, 'POLL_SECONDS', 0.1)
    monkeypatch.setattr(tuning_study, 'GRACE_SECONDS', 3)
    tool('tune', *arguments, options=data_options, experiment=False)
    trials = optuna.load_study(study_name=None, storage=url).trials
    table = pd.read_csv(tmp_path / 'trials.csv')
    assert trials[1].state == TrialState.FAIL
    assert (table['state'] == 'complete').all()
    assert table['trial'].tolist() == [0, 2]
    assert trials[2].params == trials[1].params != trials[0].params
    assert len(trials) == 3


@pytest.mark.parametrize(
    ('config', 'arguments', 'message'),
    [
        ('nowhere.py', [], 'nowhere.py'),
        (CONFIG, ['--lr', 1, 2], 'Invalid range of the learning rate'),
        (CONFIG, ['--grid-step', 0.3], 'Invalid grid step'),
        (CONFIG, ['--storage', 'nonsense'], 'the database nonsense'),
        (CONFIG.with_name('student_demo.py'), [], 'student_demo.py: expected a model with a mode'),
    ],
)
def test_user_error_is_one_line(tool, tmp_path, config, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        tool('tune', config, '--out', tmp_path, *arguments, experiment=False)
    assert str(stopped.value).startswith('tune.py: error: ')
    assert message in str(stopped.value)


def test_ctrl_c_exits_with_a_message(tool, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, 'train_trial', stop)
    with pytest.raises(SystemExit, match='stopped'):
        tool('tune', CONFIG, '--out', tmp_path, experiment=False)


def test_help(tool, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool('tune', '--help', experiment=False)
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith('usage: tune.py')
    for option in ('--sampler {grid,tpe}', '--lr LO HI', '--temperature LO HI', '--storage URL'):
        assert option in text
