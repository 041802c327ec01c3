"""Check the data of the folds of a suite, and assign images to out-of-fold teachers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from mmengine.config import Config

from mmkdml.apis.folds import fold_test_files
from mmkdml.datasets import read_split
from mmkdml.datasets.splits.manifest import manifest_folder
from mmkdml.models.distillers.fold_teachers import write_fold_teachers

#: File that assigns the training images of a run to the teachers of folds.
TEACHERS = 'teachers.json'


def check_folds(config: Config, folds: int) -> None:
    """Check that the data of a config were divided into the folds of a suite.

    Raises:
        ValueError: If they have another number of folds, or an image is tested in two folds.
    """
    files = fold_test_files(config)
    if not manifest_folder(files[0].parent).is_dir():
        return  # the data may be on another machine
    if len(files) != folds:
        folder = manifest_folder(files[0].parent)
        raise ValueError(
            f'Invalid folds: expected {folds}, as in the suite, got {len(files)} in {folder} for '
            f'{config.filename}. Convert the data with --folds {folds}'
        )
    _check_disjoint(tuple(files))


@lru_cache(maxsize=64)  # configs of a suite share their data
def _check_disjoint(files: tuple[Path, ...]) -> None:
    home: dict[str, Path] = {}
    for file in files:
        for row in read_split(file):
            if home.setdefault(row.id, file) != file:
                raise ValueError(
                    'Invalid folds: expected each image in the test split of one fold, got '
                    f'{row.id!r} in {home[row.id]} and {file}'
                )


def write_teachers(work_dir: Path, config: Config, teachers: Sequence[Path | None]) -> Path:
    """Write the file that assigns the training images of a run to out-of-fold teachers.

    Args:
        work_dir: Folder of the run.
        config: Config of the run, with its fold.
        teachers: Folder of the run of each teacher by fold; None for the fold of the run.
    """
    files = zip(teachers, fold_test_files(config), strict=True)
    used = [(run, file) for run, file in files if run is not None]
    images = [[row.id for row in read_split(file)] for _, file in used]
    return write_fold_teachers(work_dir / TEACHERS, [run for run, _ in used], images)
