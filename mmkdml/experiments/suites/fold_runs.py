"""Runs of a cross-validation: each run in each fold, and teachers of other folds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from mmkdml.experiments.run_spec import RunSpec
from mmkdml.names import fold_folder


def fold_runs(runs: Sequence[RunSpec], folds: int, taught_out: Collection[str]) -> list[RunSpec]:
    """Expand the runs of one seed to all folds.

    The copy of a teacher for two of K folds is trained without the test images of both. In the run
    of one of them it teaches the test images of the other, so the K - 1 teachers of a run have
    seen neither the images that they teach nor the test images of the run. Both folds share
    the copy: there are K (K - 1) / 2 for all runs together.

    Args:
        runs: Runs of the suite, teachers first.
        folds: Number of folds K.
        taught_out: Names of the runs with such teachers.

    Returns:
        The copies of teachers, then the runs of fold 0, of fold 1...
    """
    teachers = {run.teacher for run in runs if run.name in taught_out}
    copies = [
        replace(run, name=_copy_name(run.name, fold, other), fold=fold, without=other)
        for run in runs
        if run.name in teachers
        for fold, other in combinations(range(folds), 2)
    ]
    return copies + [
        _of_fold(run, fold, folds if run.name in taught_out else 0)
        for fold in range(folds)
        for run in runs
    ]


def _of_fold(run: RunSpec, fold: int, teachers: int) -> RunSpec:
    changes: dict[str, Any] = dict(name=f'{run.name}/{fold_folder(fold)}', fold=fold)
    if teachers:
        names = [_copy_name(str(run.teacher), fold, other) for other in range(teachers)]
        changes |= dict(teacher=None, fold_teachers=(*names[:fold], None, *names[fold + 1 :]))
    elif run.teacher is not None:
        changes |= dict(teacher=f'{run.teacher}/{fold_folder(fold)}')
    return replace(run, **changes)


def _copy_name(run: str, *folds: int) -> str:
    return f'{run}/{fold_folder(min(folds))}_{max(folds)}'
