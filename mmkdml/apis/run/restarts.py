"""Restarts of a job by Slurm or torchrun."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkdml.apis.run.comparison import recorded_identity

#: Key of the attempts in ``identity.json``.
ATTEMPTS = 'attempts'
#: Maximum number of attempts of a job that start at the same iteration.
MOST_ATTEMPTS = 5


def job_name() -> str | None:
    """Return the name of the Slurm job or torchrun launch of this process, equal in all attempts.

    All jobs of an array have the same name.
    """
    if job := os.environ.get('SLURM_ARRAY_JOB_ID') or os.environ.get('SLURM_JOB_ID'):
        return f'Slurm job {job}'
    if launch := os.environ.get('TORCHELASTIC_RUN_ID'):
        address = f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}'
        return f'torchrun {launch} on {address}'
    return None


def is_restarted(folder: str | Path) -> bool:
    """Return whether an earlier attempt of this process's job started the run of a folder."""
    counts = ('SLURM_RESTART_COUNT', 'TORCHELASTIC_RESTART_COUNT')
    if not any(int(os.environ.get(name) or 0) for name in counts):
        return False
    return _attempts(recorded_identity(folder)).get('job') == job_name()


def count_attempt(
    identity: Mapping[str, Any], iteration: int, folder: Path
) -> dict[str, Any] | None:
    """Count the attempts of this process's job that start at an iteration.

    Args:
        identity: Identity that the last attempt recorded, empty for the first one.
        iteration: Number of finished iterations.
        folder: Folder of the run.

    Returns:
        The record of this attempt; None without Slurm and torchrun.

    Raises:
        ValueError: If more than :data:`MOST_ATTEMPTS` attempts started at the iteration.
    """
    job = job_name()
    if job is None:
        return None
    before = _attempts(identity)
    is_equal = (before.get('job'), before.get('iteration')) == (job, iteration)
    number = int(before.get('number', 0)) + 1 if is_equal else 1
    if number > MOST_ATTEMPTS:
        raise ValueError(
            f'{folder}: expected progress between the attempts of {job}, got {MOST_ATTEMPTS} '
            f'attempts that started at iteration {iteration}. See the logs in the folder, and '
            'increase the time limit if it is too short. Then start a new job with --resume'
        )
    return dict(job=job, iteration=iteration, number=number)


def _attempts(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    attempts = identity.get(ATTEMPTS)
    return attempts if isinstance(attempts, Mapping) else {}
