"""The database of a search, and which of the trials in it count."""

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

from mmkdml.experiments.run_spec import settings_changes
from mmkdml.experiments.suites.store import LOCK_SECONDS

HEARTBEAT_SECONDS = 5
LOST_SECONDS = 60
RETRIES = 3
_ATTEMPTS = 5
# User attributes: of the study; of trials.
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
    """Opens a study, and makes it if it is not there.

    Its trials give signs of life; one that has given none for :data:`LOST_SECONDS` has lost its
    process, is failed and queued again, :data:`RETRIES` times.

    Args:
        url: SQLAlchemy's URL of a database.
        name: Name of the study.
        direction: ``'maximize'`` or ``'minimize'``.
        settings: The text of all that decides what comes out.
        sampler: The sampler.
        pruner: The pruner.

    Raises:
        ValueError: If the study is there with other settings; says which differ. If the database
            cannot be used.
    """
    with told(url):
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
            raise ValueError(
                f'The study {name} was begun with other settings. Search in another folder '
                '(--out), in a database of your own under another name, too (--study-name), or go '
                'back to these settings:\n'
                f'{changes}'
            )
        study.set_user_attr(SETTINGS, settings)
    return study


@contextmanager
def told(url: str) -> Iterator[None]:
    """Tells what a database refuses in words a user can act on.

    Raises:
        ValueError: In the place of the database's error.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(
            f'The database {url} cannot be used ({reason}): check the URL, its driver, your '
            'rights, the free space, and that no other program holds or has damaged it'
        ) from error


def fail_lost_trials(study: Study) -> None:
    """Fails the trials whose process is gone, and queues them again."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def queue_again(study: Study, trial: FrozenTrial) -> None:
    """Queues a trial that did not come to its end, with what it had to try."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback()(study, trial)


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: each point once.

    Left out are those that were queued again under another number, those that one worker began
    when another one had just begun the last, and those whose process was gone before they began.
    """
    again = {number for trial in trials for number in trial.system_attrs.get('retry_history', [])}
    recent = datetime.now() - timedelta(seconds=LOST_SECONDS)
    return [
        trial
        for trial in trials
        if trial.number not in again
        and SURPLUS not in trial.user_attrs
        and (
            trial.state == TrialState.WAITING
            or trial.user_attrs.get(STARTED) == trial.number
            or (trial.state == TrialState.RUNNING and (trial.datetime_start or recent) >= recent)
        )
    ]


def _storage(url: str) -> RDBStorage:
    options: dict[str, Any] = {}
    if url.startswith('sqlite'):
        options = {'connect_args': {'timeout': LOCK_SECONDS}}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ExperimentalWarning)
        make = partial(
            RDBStorage,
            url,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=LOST_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
        )
        for _ in range(_ATTEMPTS):
            try:
                return make()
            except (OperationalError, IntegrityError) as error:
                # Another worker may make a table, or a row, between the look and the act.
                if 'locked' in str(error):
                    raise
        return make()
