import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.figure import Figure
from mmengine.config import Config
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from mmkdml.experiments.database import UnavailableError
from mmkdml.experiments.tuning import results as tuning_results
from mmkdml.experiments.tuning import study as tuning_study
from mmkdml.experiments.tuning import tuner as tuning
from mmkdml.experiments.tuning.space import paper_grid
from mmkdml.experiments.tuning.tuner import MAX_CONSECUTIVE_FAILURES, Tuner

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'
ML = {'model.mode': 'ml', 'model.weights.beta': None}
TEXT = """
model = dict(
    mode='kdml', style='v3', weights=dict(alpha=(0.4, 0.4), beta=(0.3, 0.3), gamma=(0.3, 0.3))
)
default_hooks = dict(checkpoint=dict(save_best='ensemble/IoU', rule='greater'))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=24)
train_dataloader = dict(batch_size=8)
randomness = dict(seed=0)
"""


@pytest.fixture
def config(tmp_path):
    """Config file with the settings that a search reads."""
    path = tmp_path / 'small' / 'classroom.py'
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


@pytest.fixture
def search(config, tmp_path):
    """Create a tuner for the folder ``out``."""
    return lambda **arguments: Tuner(**dict(config=config, out=tmp_path / 'out') | arguments)


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def score(config):
    """Score of weights in closed form, with the optimum at 0.3 and 0.7."""
    return -sum(
        (a - best) ** 2 for a, best in zip(config.model.weights.alpha, (0.3, 0.7), strict=True)
    )


@pytest.fixture
def trained(monkeypatch):
    """Configs of the trials, which are scored by :func:`score` instead of trained."""
    configs = []

    def train(trial, config, *_):
        configs.append(config)
        folder = Path(config.work_dir)
        folder.mkdir(parents=True)
        (folder / 'epoch_1.pth').touch()
        return score(config)

    monkeypatch.setattr(tuning, 'train_trial', train)
    monkeypatch.setattr(tuning, 'POLL_SECONDS', 0.05)
    return configs


@pytest.fixture(autouse=True)
def empty_picture(monkeypatch):
    """Save an empty picture of each search; see ``test_results.py`` and ``test_ternary.py``."""
    monkeypatch.setattr(tuning_results, 'draw_landscape', lambda *_: Figure())


def table_of(folder):
    return pd.read_csv(folder / 'trials.csv')


def fail_trials(monkeypatch, fails):
    """Let trials fail for which ``fails(number)`` is true."""
    train = tuning.train_trial

    def train_or_fail(trial, config, *args):
        if fails(trial.number):
            raise RuntimeError(f'failure of {trial.number}')
        return train(trial, config, *args)

    monkeypatch.setattr(tuning, 'train_trial', train_or_fail)


def test_grid_search(trained, search, out):
    options = {'train_dataloader.batch_size': 4}
    files = search(options=options, epochs=3, grid_step=0.25).search()
    assert [file.name for file in files] == ['trials.csv', 'classroom_tuned.py', 'landscape.png']
    assert all(file.stat().st_size for file in files)
    assert options == {'train_dataloader.batch_size': 4}

    table = table_of(out)
    assert table['state'].tolist() == ['complete'] * 9
    points = [(0.25, 0.25, 0.5), (0.25, 0.5, 0.25), (0.5, 0.25, 0.25)]
    columns = [f'{letter}_{number}' for number in '12' for letter in ('alpha', 'beta', 'gamma')]
    assert {*map(tuple, table[columns].to_numpy().tolist())} == {
        (*one, *two) for one in points for two in points
    }
    values = -((table['alpha_1'] - 0.3) ** 2) - (table['alpha_2'] - 0.7) ** 2
    assert table['value'].to_numpy() == pytest.approx(values.to_numpy())

    best = Config.fromfile(out / 'classroom_tuned.py')
    assert best.model.weights.alpha == (0.25, 0.5)
    assert best.train_dataloader.batch_size == 4  # an option of the user
    assert best.train_cfg.max_epochs == 24  # epochs only apply to trials
    assert [config.train_cfg.max_epochs for config in trained] == [3] * 9
    assert all(config.test_dataloader is None for config in trained)

    # Only the checkpoints of the best trial are kept.
    (kept,) = out.glob('trial_*/*.pth')
    assert kept.parent.name == f'trial_{table["value"].idxmax()}'


def test_tied_search_of_two_weights(trained, search, out):
    search(options=ML, tied=True, keep_checkpoints=True).search()
    table = table_of(out)
    assert sorted(table['alpha_1']) == pytest.approx([tenths / 10 for tenths in range(1, 10)])
    assert (table['alpha_1'] == table['alpha_2']).all()
    assert not any(column.startswith('beta') for column in table)
    best = Config.fromfile(out / 'classroom_tuned.py')
    assert best.model.weights.alpha == best.model.weights.gamma == (0.5, 0.5)
    assert best.model.mode == 'ml'
    assert len(list(out.glob('trial_*/*.pth'))) == 9


def test_tpe_finds_the_best_weights(trained, search, out):
    search(sampler='tpe', trials=24, seed=0, lr=(1e-5, 1e-2)).search()
    table = table_of(out)
    assert len(table) == 24
    # The first ten points are random.
    assert table['value'][16:].mean() > table['value'][:10].mean()
    best = Config.fromfile(out / 'classroom_tuned.py')
    assert score(best) == pytest.approx(table['value'].max())
    assert score(best) > -0.02
    lr = best.optim_wrapper.optimizer.lr
    assert lr == table['lr'][table['value'].idxmax()]
    assert 1e-5 <= lr <= 1e-2
    assert {config.optim_wrapper.optimizer.lr for config in trained} == {*table['lr']}


def test_minimized_metric(trained, search, out):
    search(options={'default_hooks.checkpoint.rule': 'less'}, tied=True).search()
    table = table_of(out)
    best = Config.fromfile(out / 'classroom_tuned.py')
    assert best.model.weights.alpha[0] == table['alpha_1'][table['value'].idxmin()] in (0.1, 0.9)


def test_number_of_trials_is_the_total_of_all_searches(trained, search, out):
    for trials, made in ((4, 4), (4, 4), (6, 6), (2, 6)):
        search(sampler='tpe', trials=trials).search()
        assert len(table_of(out)) == len(trained) == made


@pytest.mark.slow
@pytest.mark.parametrize('arguments', [dict(tied=True), dict(sampler='tpe', trials=9)])
def test_workers_share_the_trials(trained, search, out, all_forked, arguments):
    all_forked(*((search(**arguments).search,) for _ in range(3)))
    table = table_of(out)
    assert table['state'].tolist() == ['complete'] * 9
    assert len(table[['alpha_1', 'alpha_2']].drop_duplicates()) == 9


def test_failed_trials_are_retried_by_the_next_search(trained, search, out, monkeypatch):
    fail_trials(monkeypatch, lambda number: number in (0, 3, 4))
    search(tied=True).search()
    table = table_of(out).set_index('trial')
    assert table.index[table['state'] == 'fail'].tolist() == [0, 3, 4]
    assert table['error'].dropna().to_dict() == {
        number: f'RuntimeError: failure of {number}' for number in (0, 3, 4)
    }
    assert (table['state'] == 'complete').sum() == 6

    # They are retried with the same weights.
    before = table['alpha_1']
    search(tied=True).search()
    table = table_of(out).set_index('trial')
    assert (table['state'] == 'complete').all()
    assert table['error'].isna().all()
    assert sorted(table['alpha_1']) == sorted(before)
    assert len(trained) == 9


def test_consecutive_failures_stop_the_search(trained, search, out, monkeypatch):
    fail_trials(monkeypatch, lambda number: number > 1)
    message = f'{MAX_CONSECUTIVE_FAILURES} .* Trial 4: RuntimeError: failure of 4'
    with pytest.raises(ValueError, match=message):
        search().search()
    assert not (out / 'trials.csv').exists()


def test_search_without_complete_trial_raises(trained, search, out, monkeypatch):
    fail_trials(monkeypatch, lambda number: True)
    with pytest.raises(
        ValueError, match=r'None of 2 trials .* Trial 1: RuntimeError: failure of 1'
    ):
        search(trials=2).search()

    def prune(*_):
        raise TrialPruned

    monkeypatch.setattr(tuning, 'train_trial', prune)
    with pytest.raises(ValueError, match='None of 2 trials .* All were pruned'):
        search(trials=2, study_name='pruned').search()


def test_interrupted_trial_is_repeated(trained, search, out, monkeypatch):
    train, alphas = tuning.train_trial, []

    def stop_the_third(trial, config, *args):
        alphas.append(config.model.weights.alpha)
        if len(alphas) == 3:
            raise KeyboardInterrupt
        return train(trial, config, *args)

    monkeypatch.setattr(tuning, 'train_trial', stop_the_third)
    with pytest.raises(KeyboardInterrupt):
        search(sampler='tpe', trials=4).search()
    search(sampler='tpe', trials=4).search()
    assert alphas[2] == alphas[3]
    table = table_of(out)
    assert table['trial'].tolist() == [0, 1, 3, 4]
    assert (table['state'] == 'complete').all()


def test_worker_continues_after_its_trial_was_marked_as_failed(trained, search, out, monkeypatch):
    train, lines = tuning.train_trial, []

    def lose_the_first(trial, config, *args):
        if trial.number == 0:
            trial.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            tuning_study.requeue(trial.study, trial.study.trials[0])
            with pytest.raises(UpdateFinishedTrialError):
                trial.report(1.0, 1)
        return train(trial, config, *args)

    monkeypatch.setattr(tuning, 'train_trial', lose_the_first)
    search(sampler='tpe', trials=3, log=lines.append).search()
    assert table_of(out)['trial'].tolist() == [1, 2, 3]
    assert 'trial 0 had no heartbeat' in lines[1]
    assert [line.split()[:2] for line in lines[2:]] == [['trial', str(n)] for n in (1, 2, 3)]
    assert '3 of 3 trials' in lines[-1]
    assert 'best' in lines[-1]


def test_worker_waits_for_trials_of_others(trained, search, out, monkeypatch):
    """The last trial of another worker is lost while this one waits, and repeated."""
    out.mkdir()
    lines = []
    tuner = search(sampler='tpe', trials=2, log=lines.append)
    study = tuning.open_study(
        tuner.url, tuner.name, tuner.direction, tuner._settings, tuner._sampler, tuner._pruner
    )
    lost = study.ask()
    lost.set_user_attr('started', lost.number)
    study._storage.record_heartbeat(lost._trial_id)

    def age_heartbeat(_):
        with sqlite3.connect(out / 'tune.db', timeout=300) as database:
            database.execute(
                "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 day') "
                'WHERE trial_id = ?',
                [lost._trial_id],
            )

    monkeypatch.setattr(tuning_study, 'GRACE_SECONDS', 3600)
    monkeypatch.setattr(tuning, 'time', SimpleNamespace(sleep=age_heartbeat))
    tuner.search()
    assert lines.count('waiting for trials of other workers: [0]') == 1
    assert table_of(out)['trial'].tolist() == [1, 2]


def test_surplus_trial_is_not_trained(trained, search, out):
    """Two workers start the last trial at the same time; the later one is pruned."""
    out.mkdir()
    tuner = search(sampler='tpe', trials=1)
    study = tuning.open_study(
        tuner.url, tuner.name, tuner.direction, tuner._settings, tuner._sampler, tuner._pruner
    )
    study.ask().set_user_attr('started', 0)
    study.optimize(tuner._train, n_trials=1)
    assert study.trials[1].state == TrialState.PRUNED
    assert [trial.number for trial in tuning_study.counted_trials(study.trials)] == [0]
    assert trained == []


@pytest.mark.parametrize(('pruner', 'pruned'), [('median', True), ('none', False)])
def test_trials_below_the_median_are_pruned(trained, search, out, monkeypatch, pruner, pruned):
    def train(trial, config, *_):
        # Each trial is worse than all before.
        for step in (1, 2):
            trial.report(-trial.number, step)
            if trial.should_prune():
                raise TrialPruned
        return -trial.number

    monkeypatch.setattr(tuning, 'train_trial', train)
    search(tied=True, pruner=pruner).search()
    table = table_of(out).set_index('trial')
    states = ['complete'] * 5 + ['pruned' if pruned else 'complete'] * 4
    assert table['state'].tolist() == states
    assert table['validations'].tolist() == [2] * 5 + [1 if pruned else 2] * 4


def test_search_with_other_settings_raises(trained, search, out):
    search(trials=1).search()
    for changed, difference in (
        (dict(tied=True), 'tied: False -> True'),
        (dict(grid_step=0.25), r'grid.*: .* -> '),
        (dict(epochs=5), 'max_epochs: .* -> 5'),
        (dict(options={'optim_wrapper.optimizer.lr': 0.5}), 'lr: .* -> 0.5'),
        (dict(options={'randomness.seed': 7}), 'seed: 0 -> 7'),
        (dict(pruner='none'), "pruner: 'median' -> 'none'"),
    ):
        with pytest.raises(ValueError, match=f'(?s)Study small_classroom .*{difference}'):
            search(trials=1, **changed).search()
    search(trials=2, keep_checkpoints=True).search()
    assert len(table_of(out)) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(sampler='random'), "sampler: .* grid, tpe, got 'random'"),
        (dict(pruner='hyper'), "pruner: .* median, none, got 'hyper'"),
        (dict(trials=0), 'trials: expected at least 1, got 0'),
        (dict(sampler='tpe', grid_step=0.1), 'grid step: .* got tpe'),
        (dict(lr=(1e-4, 1e-2)), 'learning rate: .* sampler tpe'),
        (
            dict(sampler='tpe', temperature=(1, 4), options={'model.style': 'v2'}),
            'temperature: .* kdml v2 ',
        ),
        (
            dict(sampler='tpe', lr=(1e-4, 1e-2), options={'optim_wrapper.optimizer': None}),
            'learning rate: .* optim_wrapper.optimizer.lr',
        ),
        (dict(options={'model.mode': 'kd'}), "mode.* got 'kd'"),
        (dict(options={'default_hooks.checkpoint.save_best': 'auto'}), "got 'auto'"),
        (dict(options={'default_hooks.checkpoint.save_best': None}), 'save_best .* got None'),
        (dict(epochs=0), 'epochs: expected at least 1'),
        (dict(config=DEMO / 'student_demo.py'), r'student_demo\.py: .* mode'),
    ],
)
def test_invalid_arguments_raise(search, out, arguments, message):
    with pytest.raises(ValueError, match=message):
        search(**arguments)
    assert not out.exists()


def test_config_of_a_package_has_the_study_of_its_file():
    tuner = Tuner('mmkdml::demo/kdml_v3_demo.py')
    assert tuner.name == 'demo_kdml_v3_demo'
    assert tuner.out == Path('work_dirs/tune/demo_kdml_v3_demo')


def test_missing_config_raises():
    with pytest.raises(FileNotFoundError, match=r'nowhere\.py'):
        Tuner('nowhere.py')


@pytest.mark.parametrize('name', ['my-configs', 'try'])
def test_folder_names_that_are_no_module_names(search, tmp_path, name):
    config = tmp_path / name / 'a.py'
    config.parent.mkdir()
    config.write_text(TEXT)
    assert search(config=config).path == config


def test_defaults():
    tuner = Tuner(DEMO / 'kdml_v3_demo.py')
    assert tuner.name == 'demo_kdml_v3_demo'
    assert tuner.out == Path('work_dirs/tune/demo_kdml_v3_demo')
    assert tuner.url == 'sqlite:///work_dirs/tune/demo_kdml_v3_demo/tune.db'
    assert tuner.metric == 'ensemble/foreground/IoU'
    assert tuner.trials == 81
    assert tuner.space.grid == paper_grid(('alpha', 'beta', 'gamma'))


def test_number_of_trials(search):
    assert search(trials=200).trials == 81
    assert search(trials=80).trials == 80
    assert search(sampler='tpe').trials == 50
    assert search(storage='sqlite://').url == 'sqlite://'


def test_score_that_could_not_be_recorded_is_not_trained_again(trained, search, monkeypatch, out):
    train, saved = tuning.train_trial, []

    def train_and_save(trial, config, metric, direction, output, score):
        saved.append(trial.number)
        value = train(trial, config, metric, direction, output)
        score.write(Path(config.work_dir), value, {})
        if trial.number == 1:
            raise RuntimeError('the database is away')
        return value

    monkeypatch.setattr(tuning, 'train_trial', train_and_save)
    search(trials=2, grid_step=0.25).search()
    lines = []
    search(trials=2, grid_step=0.25, log=lines.append).search()
    assert saved == [0, 1]
    assert any('trial 2: recording' in line for line in lines)
    assert table_of(out)['state'].tolist() == ['complete'] * 2


def test_database_that_stays_away_ends_the_search(trained, search, monkeypatch):
    monkeypatch.setattr(tuning, 'RETRY_SECONDS', 0.1)
    one, train = search(trials=2, grid_step=0.25), tuning.train_trial

    def fail(_):
        raise OperationalError('BEGIN', {}, sqlite3.OperationalError('database is locked'))

    def lose(*args):
        event.listen(one._database.engine, 'begin', fail)
        return train(*args)

    monkeypatch.setattr(tuning, 'train_trial', lose)
    with pytest.raises(UnavailableError, match='locked'):
        one.search()
    assert len(trained) == 1
