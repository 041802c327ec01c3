import sqlite3
import threading
import time
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from mmkdml.experiments.database import Database, UnavailableError
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
    retry_lost = tuning_study._storage(
        'sqlite://', Database('sqlite://')
    ).get_heartbeat_stale_trial_callback()
    retry_lost(study, waiting)
    assert len(study.trials) == RETRIES + 3


@pytest.fixture
def away(tmp_path):
    """A study, and the faults of its database: each transaction fails while ``errors`` has some."""
    database = Database(f'sqlite:///{tmp_path / "tune.db"}')
    database.retry_seconds = 600
    url = f'sqlite:///{tmp_path / "tune.db"}'
    study = open_study(url, 'study', 'minimize', '', RandomSampler(0), NopPruner(), database)
    errors = []

    def fail(_):
        if errors:
            raise OperationalError('BEGIN', {}, errors.pop())

    event.listen(database.engine, 'begin', fail)
    return study, database, errors


def test_trial_is_recorded_after_an_outage(away):
    study, database, errors = away
    lines, locked = [], sqlite3.OperationalError('database is locked')
    database.log = lines.append

    def objective(trial):
        errors.extend([locked] * 2)
        value = trial.suggest_float('x', 0, 1)
        errors.extend([locked] * 2)
        trial.report(value, 1)
        errors.extend([locked] * 2)
        return value

    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.intermediate_values == {1: trial.value}
    # Heartbeats may end an outage before the second error.
    assert sum('unavailable' in line for line in lines) >= 3


def test_result_whose_confirmation_was_lost_is_recorded_once(away, monkeypatch):
    study, database, _ = away
    change, calls = RDBStorage.set_trial_state_values, []

    def change_and_fail(*args):
        calls.append(args)
        result = change(*args)
        if len(calls) == 1:
            raise OperationalError('COMMIT', {}, sqlite3.OperationalError('database is locked'))
        return result

    monkeypatch.setattr(RDBStorage, 'set_trial_state_values', change_and_fail)
    study.optimize(lambda trial: 0.5, n_trials=1)
    assert len(calls) == 2
    assert [trial.value for trial in study.trials] == [0.5]
    with pytest.raises(UpdateFinishedTrialError):  # not the same result
        study._storage.set_trial_state_values(study.trials[0]._trial_id, TrialState.FAIL)


def test_heartbeat_ends_quietly_if_the_database_stays_away(away):
    study, database, errors = away
    database.retry_seconds = 0
    trial = study.ask()
    errors.extend([sqlite3.OperationalError('database is locked')] * 2)
    study._storage.record_heartbeat(trial._trial_id)
    with pytest.raises(UnavailableError, match=r'tune\.db: database is locked'):
        study.tell(trial, 0.5)


def test_after_an_outage_no_trial_is_lost_at_once(away, monkeypatch):
    study, database, _ = away
    failed = []
    monkeypatch.setattr(optuna.storages, 'fail_stale_trials', failed.append)
    database.back_since = time.monotonic()
    fail_lost_trials(study, database)
    assert failed == []
    database.back_since -= tuning_study.GRACE_SECONDS + 1
    fail_lost_trials(study, database)
    assert failed == [study]


def test_password_is_not_in_messages():
    url = 'postgresql+nodriver://u:s3cret@h/d'
    with pytest.raises(ValueError, match=r'u:\*\*\*@h/d') as raised:
        open_study(url, 'study', 'minimize', '', RandomSampler(), NopPruner())
    assert 's3cret' not in str(raised.value)
