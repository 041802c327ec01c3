import sqlite3
import threading
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from mmkdml.experiments.tuning import study as tuning_study
from mmkdml.experiments.tuning.study import (
    RETRIES,
    STARTED,
    SURPLUS,
    counted_trials,
    fail_lost_trials,
    open_study,
    requeue,
)


def opened(folder, settings='a: 1\nb: 2', name='study'):
    url = f'sqlite:///{folder / "tune.db"}'
    return open_study(url, name, 'minimize', settings, RandomSampler(0), NopPruner())


def test_study_is_opened_again(tmp_path):
    study = opened(tmp_path)
    assert study.direction.name == 'MINIMIZE'
    study.optimize(lambda trial: trial.suggest_float('x', 0, 1), n_trials=2)
    again = opened(tmp_path)
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]
    assert opened(tmp_path, 'c: 3', name='another').trials == []


def test_other_settings_raise_with_the_difference(tmp_path):
    opened(tmp_path)
    with pytest.raises(ValueError, match=r'(?s)[Ss]tudy study .*b: 2 -> 3.*--study-name'):
        opened(tmp_path, 'a: 1\nb: 3')
    assert opened(tmp_path).user_attrs['settings'] == 'a: 1\nb: 2'


def test_concurrent_workers_create_the_database(tmp_path):
    errors, start = [], threading.Barrier(6)

    def work():
        start.wait(300)
        try:
            opened(tmp_path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_invalid_database_raises(tmp_path):
    (tmp_path / 'tune.db').write_text('not a database, but a long text ' * 99)
    with pytest.raises(ValueError, match=r'tune\.db: .*not a database'):
        opened(tmp_path)
    for url, reason in (('nonsense', 'parse'), ('postgresql+nodriver://h/d', 'nodriver')):
        with pytest.raises(ValueError, match=rf'{url.split("+")[0]}.*: .*{reason}'):
            open_study(url, 'study', 'minimize', '', RandomSampler(), NopPruner())


def trial(number, state, **attrs):
    system = attrs.pop('system_attrs', {})
    made = create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        user_attrs=attrs,
        system_attrs=system,
    )
    made.number = number
    return made


def test_counted_trials():
    first = {STARTED: 0}
    old = trial(5, TrialState.RUNNING)
    old.datetime_start = datetime.now() - timedelta(days=1)
    expected = [
        trial(1, TrialState.COMPLETE, **first | {STARTED: 1}),
        trial(2, TrialState.PRUNED, **{STARTED: 2}),
        trial(3, TrialState.FAIL, **{STARTED: 3}),
        trial(4, TrialState.RUNNING, **{STARTED: 4}),
        trial(6, TrialState.WAITING, system_attrs=dict(retry_history=[0])),
        trial(8, TrialState.RUNNING),  # has just started
    ]
    others = [
        trial(0, TrialState.FAIL, **first),  # queued again, as number 6
        old,  # lost its process before it started
        trial(7, TrialState.PRUNED, **{STARTED: 7, SURPLUS: True}),
        trial(9, TrialState.FAIL, **first),  # repeats trial 0; lost before it started
    ]
    assert counted_trials(sorted([*expected, *others], key=lambda one: one.number)) == expected
    assert counted_trials([]) == []


def test_trial_without_heartbeat_is_queued_again(tmp_path):
    study = opened(tmp_path)

    def objective(trial):
        """The first trial starts a second one, whose process is lost."""
        if trial.number == 0:
            lost = study.ask()
            lost.suggest_float('x', 0, 1)
            study._storage.record_heartbeat(lost._trial_id)
            ago = f'-{tuning_study.GRACE_SECONDS + 2} seconds'
            with sqlite3.connect(tmp_path / 'tune.db', timeout=300) as database:
                database.execute(
                    "UPDATE trial_heartbeats SET heartbeat = datetime('now', ?) WHERE trial_id = ?",
                    [ago, lost._trial_id],
                )
            fail_lost_trials(study)
        return trial.suggest_float('x', 0, 1)

    study.optimize(objective, n_trials=1)
    living, lost, again = study.trials
    assert [living.state.name, lost.state.name, again.state.name] == ['COMPLETE', 'FAIL', 'WAITING']
    assert again.params == lost.params
    assert len(lost.params) == 1
    study.optimize(objective, n_trials=1)
    assert study.trials[2].value == lost.params['x']


def test_requeued_trial_has_the_same_parameters():
    study = optuna.create_study()
    study.add_trial(
        create_trial(
            state=TrialState.FAIL,
            params=dict(x=0.25),
            distributions=dict(x=FloatDistribution(0, 1)),
        )
    )
    for _ in range(RETRIES + 2):
        requeue(study, study.trials[-1])
    assert all(trial.params == dict(x=0.25) for trial in study.trials)
    waiting = study.trials[-1]
    assert waiting.state == TrialState.WAITING
    assert waiting.system_attrs['retry_history'] == list(range(RETRIES + 2))
    # A trial that kills its process each time is not retried forever.
    retry_lost = tuning_study._storage('sqlite://').get_heartbeat_stale_trial_callback()
    retry_lost(study, waiting)
    assert len(study.trials) == RETRIES + 3
