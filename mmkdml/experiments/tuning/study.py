"""Optuna study of a search: storage, retries and counting of trials."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import Any, Literal

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from mmkdml.apis.run.settings import other_settings_error
from mmkdml.experiments.database import LOCK_SECONDS, Database, UnavailableError
from mmkdml.experiments.run_spec import settings_changes

HEARTBEAT_SECONDS = 5
GRACE_SECONDS = 60
RETRIES = 3
_ATTEMPTS = 5
# Methods of RDBStorage that do not use the database.
_LOCAL_METHODS = ('__', 'get_heartbeat', 'get_head', 'get_all_versions', 'remove_session')
# User attributes of the study and of trials.
SETTINGS = 'settings'
STARTED, SURPLUS = 'started', 'surplus'


def open_study(
    url: str,
    name: str,
    direction: Literal['maximize', 'minimize'],
    settings: str,
    sampler: BaseSampler,
    pruner: BasePruner,
    database: Database | None = None,
) -> Study:
    """Open a study; create it if it does not exist.

    A trial without a heartbeat for :data:`GRACE_SECONDS` is lost, because its process has exited.
    It is marked as failed and queued again, at most :data:`RETRIES` times.

    Args:
        url: SQLAlchemy URL of the database.
        name: Name of the study.
        direction: Direction of the optimization.
        settings: Settings text of the search.
        sampler: Optuna's sampler.
        pruner: Optuna's pruner.
        database: Retries calls of the storage. Default: no retries.

    Raises:
        ValueError: If the study was started with other ``settings`` (lists the differences), or if
            the database is not accessible.
    """
    study = optuna.create_study(
        storage=_storage(url, database or Database(url, LOCK_SECONDS)),
        study_name=name,
        direction=direction,
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )
    before = study.user_attrs.get(SETTINGS, settings)
    if changes := settings_changes(before, settings):
        raise other_settings_error(
            f'Study {name} was started',
            changes,
            'Undo the change, or search in another folder (--out); in your own database, also '
            'under another name (--study-name)',
        )
    study.set_user_attr(SETTINGS, settings)
    return study


def fail_lost_trials(study: Study, database: Database | None = None) -> None:
    """Mark lost trials as failed, and queue them again.

    After an outage of the database, workers first get time to record heartbeats again.
    """
    if database is not None and time.monotonic() - database.back_since < GRACE_SECONDS:
        return
    with _no_experimental_warnings():
        optuna.storages.fail_stale_trials(study)


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Queue an unfinished trial again, with the same parameters."""
    with _no_experimental_warnings():
        RetryHeartbeatStaleTrialCallback()(study, trial)


def counted_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count towards the total.

    Excluded are trials that were queued again under another number, surplus trials that two workers
    started at the same time, and trials that were lost before their training started.
    """
    retried = {n for trial in trials for n in trial.system_attrs.get('retry_history', [])}
    recent = datetime.now() - timedelta(seconds=GRACE_SECONDS)
    return [
        trial
        for trial in trials
        if trial.number not in retried
        and SURPLUS not in trial.user_attrs
        and (
            trial.state == TrialState.WAITING
            or trial.user_attrs.get(STARTED) == trial.number
            or (trial.state == TrialState.RUNNING and (trial.datetime_start or recent) >= recent)
        )
    ]


class _RetryingStorage(RDBStorage):
    """RDBStorage that retries its methods while the database is unavailable."""

    def __init__(self, database: Database, url: str, **options: Any) -> None:
        self._database = database
        super().__init__(url, engine_kwargs=database.engine_options, **options)
        database.use(self.engine)

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(UnavailableError):  # the thread of the training reports it
            self._database.call(partial(RDBStorage.record_heartbeat, self, trial_id))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        attempts = 0

        def change() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                return RDBStorage.set_trial_state_values(self, trial_id, state, values)
            except UpdateFinishedTrialError:
                # The first attempt may have succeeded, and its confirmation was lost.
                trial = self.get_trial(trial_id)
                if attempts == 1 or (trial.state, trial.values) != (state, values and [*values]):
                    raise
                return True

        return self._database.call(change)


def _retried(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: _RetryingStorage, *args: Any, **kwargs: Any) -> Any:
        return self._database.call(partial(method, self, *args, **kwargs))

    return call


for _name, _method in vars(RDBStorage).items():
    _is_own = _name in vars(_RetryingStorage) or _name.startswith(_LOCAL_METHODS)
    if inspect.isfunction(_method) and not _is_own:
        setattr(_RetryingStorage, _name, _retried(_method))


def _storage(url: str, database: Database) -> RDBStorage:
    def create() -> RDBStorage:
        with _no_experimental_warnings():
            return _RetryingStorage(
                database,
                url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
            )

    def create_with_others() -> RDBStorage:
        for _ in range(_ATTEMPTS):
            try:
                return create()
            except (OperationalError, IntegrityError) as error:
                # Another worker may create a table or row between check and creation.
                if error.connection_invalidated or 'locked' in str(error):
                    raise
        return create()

    return database.call(create_with_others)


@contextmanager
def _no_experimental_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ExperimentalWarning)
        yield


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Hide Optuna's lines about each trial, which repeat ours."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
