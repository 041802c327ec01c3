"""Select a fold of a cross-validation in a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdml.apis.run.volumes import complete_volumes
from mmkdml.datasets.splits.manifest import SPLIT_FILES, manifest_folder, read_manifest
from mmkdml.names import FOLDS, SPLITS, fold_folder


def set_fold(config: Config, fold: int, without: int | None = None) -> None:
    """Make all data sets of a config read the split files of a fold.

    ``splits/train.csv`` becomes ``splits/fold_2/train.csv``, as does that of any other fold.

    Args:
        config: Config with data sets that read split files; modified.
        fold: Index of the fold, from 0.
        without: Another fold, whose test images are left out of training and validation, so that
            the networks have seen the test images of neither.

    Raises:
        ValueError: If no data set reads a split file, or the split files have no such fold.
    """
    datasets = _split_datasets(config)
    if not datasets:
        raise ValueError(
            f'Invalid fold {fold}: expected data sets that read split files, got none. Set ann_file'
        )
    for key, dataset in datasets:
        path = Path(dataset['ann_file'])
        folder = manifest_folder(path.parent)
        folds = read_manifest(folder).get(FOLDS)
        if folder.is_dir() and (type(folds) is not int or not 0 <= fold < folds):
            found = f'0 to {folds - 1}, got {fold}' if folds else 'folds, got a single split'
            raise ValueError(
                f'Invalid fold of {folder}: expected {found}. Convert the data with --folds'
            )
        dataset['ann_file'] = str(folder / fold_folder(fold) / path.name)
        if without is not None and not key.startswith(SPLITS[-1]):
            dataset['without'] = str(folder / fold_folder(without) / SPLIT_FILES[-1])
    complete_volumes(config)


def left_out_options(config: Config) -> dict[str, str]:
    """Return the options, by dotted key, with which data sets leave out images of another fold."""
    return {
        f'{key}.without': dataset['without']
        for key, dataset in _split_datasets(config)
        if 'without' in dataset
    }


def fold_test_files(config: Config) -> list[Path]:
    """Return the test split files of all folds of a config's data, or of its single split."""
    folder = manifest_folder(Path(_split_datasets(config)[0][1]['ann_file']).parent)
    folds = read_manifest(folder).get(FOLDS)
    folders = [folder / fold_folder(fold) for fold in range(folds)] if folds else [folder]
    return [one / SPLIT_FILES[-1] for one in folders]


def _split_datasets(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Return the dotted key and settings of each data set with a split file."""
    loaders = [f'{split}_dataloader' for split in SPLITS]
    return [one for key in loaders for one in _with_split_file(key, config.get(key) or {})]


def _with_split_file(key: str, settings: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield keys and configs of data sets, also of wrapped ones, that read a split file."""
    if isinstance(settings, Mapping):
        name = settings.get('ann_file')
        if isinstance(name, str) and Path(name).name in SPLIT_FILES:
            yield key, settings  # type: ignore[misc]
        for name, value in settings.items():
            yield from _with_split_file(f'{key}.{name}', value)
    elif isinstance(settings, list | tuple):
        for place, value in enumerate(settings):
            yield from _with_split_file(f'{key}.{place}', value)
