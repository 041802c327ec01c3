"""Optuna study of a search: storage, retries and counting of trials."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from mmkdml.apis.run.settings import other_settings_error
from mmkdml.experiments.database import LOCK_SECONDS
from mmkdml.experiments.run_spec import settings_changes

HEARTBEAT_SECONDS = 5
GRACE_SECONDS = 60
RETRIES = 3
_ATTEMPTS = 5
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
) -> Study:
    """Open a study; create it if it does not exist.

    A trial without a heartbeat for :data:`GRACE_SECONDS` is lost, because its process has exited.
    It is marked as failed and queued again, at most :data:`RETRIES` times.

    Raises:
        ValueError: If the study was started with other ``settings`` (lists the differences), or if
            the database is not accessible.
    """
    with explain_database_errors(url):
        study = optuna.create_study(
            storage=_storage(url),
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


@contextmanager
def explain_database_errors(url: str) -> Iterator[None]:
    """Re-raise database errors as ValueError with advice."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(
            f'Cannot access the database {url}: {reason}. Check the URL, the driver, your '
            'permissions, the free space, and whether another program has locked or damaged it'
        ) from error


def fail_lost_trials(study: Study) -> None:
    """Mark lost trials as failed, and queue them again."""
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


def _storage(url: str) -> RDBStorage:
    options: dict[str, Any] = {'timeout': LOCK_SECONDS} if url.startswith('sqlite') else {}
    with _no_experimental_warnings():
        create = partial(
            RDBStorage,
            url,
            engine_kwargs={'connect_args': options},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
        )
        for _ in range(_ATTEMPTS):
            try:
                return create()
            except (OperationalError, IntegrityError) as error:
                # Another worker may create a table or row between check and creation.
                if 'locked' in str(error):
                    raise
        return create()


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
