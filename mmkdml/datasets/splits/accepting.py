"""Accept split files that were written or edited by hand."""

from __future__ import annotations

from pathlib import Path

from mmkdml.datasets.splits.manifest import (
    BOXES_FILE,
    HASHES,
    SPLIT_FILES,
    UNFINISHED,
    check_manifest,
    manifest_folder,
    read_manifest,
    write_split_files,
)
from mmkdml.datasets.splits.split_checks import refuse_shared_groups, warn_of_shared_groups
from mmkdml.datasets.splits.split_files import (
    by_fold,
    check_folds,
    check_splits,
    counts_of,
    read_rows,
)
from mmkdml.datasets.splits.split_row import SplitRow
from mmkdml.names import FOLDS, fold_folder


def accept_splits(folder: str | Path, split_by: str | None = None) -> dict[str, list[SplitRow]]:
    """Record the current content of split files that were written or edited by hand.

    Args:
        folder: Folder with at least one of ``train.csv``, ``val.csv`` and ``test.csv``, or with
            folders ``fold_0``, ``fold_1``... of such files.
        split_by: ``'image'`` if groups may be in several splits. Default: the value in the
            manifest.

    Returns:
        Rows of each split; names of splits of a fold are like ``fold_0/train``.

    Raises:
        FileNotFoundError: If there is no split file.
        ValueError: If a file is invalid, an id or (unless split by image) a group is in two splits,
            images of validation or test are repeated, writing was interrupted, or the test splits
            of folds do not contain each image once.
    """
    folder = manifest_folder(folder)
    try:
        info = read_manifest(folder)
    except ValueError:
        info = {}  # the split files are intact
    if info.get(UNFINISHED):
        check_manifest(folder / SPLIT_FILES[0])
    splits = {
        path.relative_to(folder).with_suffix('').as_posix(): read_rows(path)
        for path in _files_of_splits(folder)
    }
    folds = by_fold(splits)
    if split_by is not None:
        info['split_by'] = split_by
    for parts in folds.values():
        check_splits(parts)
        if info.get('split_by') != 'image':
            refuse_shared_groups(parts)
        elif split_by is not None:
            warn_of_shared_groups(parts)
    info = {key: value for key, value in info.items() if key not in (HASHES, FOLDS)}
    info['edited'] = True
    if [*folds] == ['']:
        info['counts'] = counts_of(splits)
    else:
        check_folds([*folds.values()])
        info |= {FOLDS: len(folds), 'counts': {key: counts_of(one) for key, one in folds.items()}}
    names = [*(f'{name}.csv' for name in splits), *[BOXES_FILE] * (folder / BOXES_FILE).exists()]
    files = {name: (folder / name).read_bytes() for name in names}
    write_split_files(folder, files, info, force=True)
    return splits


def _files_of_splits(folder: Path) -> list[Path]:
    """Find the split files of a folder, or of its folds in order."""
    folds = sorted(path.parent for path in folder.glob('fold_*/test.csv'))
    wanted = [folder / fold_folder(number) for number in range(len(folds))]
    own = [folder / name for name in SPLIT_FILES if (folder / name).exists()]
    if folds and (own or folds != sorted(wanted)):
        raise ValueError(
            f'Invalid split files in {folder}: expected those of folds 0 to K - 1 or of a '
            f'single split, got {", ".join(path.name for path in [*folds, *own])}'
        )
    files = own or [
        path for fold in wanted for name in SPLIT_FILES if (path := fold / name).exists()
    ]
    if not files:
        raise FileNotFoundError(f'No split files in {folder}: expected {", ".join(SPLIT_FILES)}')
    return files
