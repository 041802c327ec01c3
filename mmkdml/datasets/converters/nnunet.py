"""Converter for volumes in the layouts of nnU-Net and the Medical Segmentation Decathlon."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.datasets.converters.folders import find_groups
from mmkdml.datasets.converters.nnunet_layout import VolumeSet, read_layout
from mmkdml.datasets.converters.source_checks import Problems, Splits, source_folder
from mmkdml.datasets.splits import SplitRow, refuse_shared_groups, split_rows, write_splits
from mmkdml.datasets.splits.manifest import INFO_FILE
from mmkdml.datasets.splits.split_files import by_fold
from mmkdml.datasets.volumes.intensity import INTENSITY, training_intensity
from mmkdml.datasets.volumes.nifti import grid_difference, read_header
from mmkdml.datasets.volumes.store import Case, check_axis, coarsest_axis, slice_path, volume_file
from mmkdml.datasets.volumes.writing import SourceCase, store_case
from mmkdml.files import remove_partial_files
from mmkdml.names import fold_folder
from mmkdml.optional import require

#: Folder of the stored volumes, below that of the split files.
VOLUMES = 'volumes'
#: File of nnU-Net with its folds.
SPLITS_FINAL = 'splits_final.json'
KEEP, DROP = 'keep', 'drop'
# Each needs about 200 MB.
_THREADS = 2


def convert_nnunet(
    source: str | Path,
    out: str | Path,
    axis: int | None = None,
    empty: str = KEEP,
    group_regex: str | None = None,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
    splits_final: str | Path | None = None,
) -> Splits:
    """Store volumes as slices and write their split files.

    Args:
        source: Folder with ``dataset.json``, images and labels (NIfTI).
        out: Folder for the split files. The volumes are stored in its folder ``volumes``, which is
            the ``data_root`` of the data sets. Cases that are stored there already are kept.
        axis: Axis of the files along which the volumes are sliced. Default: the one with the
            largest median spacing; the last one if several are equal.
        empty: Training slices without foreground: ``'keep'``, ``'drop'``, or a number in (0, 1),
            the share of them that is kept in each case, equally spaced. Val and test keep all.
        group_regex: Regular expression that finds the group (a patient) in the name of a case.
            Default: each case is a group.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``, and volumes from other files or settings.
        folds: Number of folds of a cross-validation. Default: those of ``splits_final``, or a
            single split by ``ratios``.
        splits_final: nnU-Net's file of folds. Its ``val`` cases are the test split of a fold;
            val is drawn from the others by ``ratios``. Default: ``splits_final.json``
            in ``source`` if there is one and ``folds`` is not set.

    Raises:
        FileExistsError: If ``out`` has other split files and ``force`` is not set.
        FileNotFoundError: If ``source`` is not such a folder, or there is no ``splits_final``.
        ValueError: If nibabel is not installed, an option is invalid, or the source is. The message
            lists up to 10 problems.
    """
    source, out = source_folder(source, 'a folder with dataset.json'), Path(out)
    check_axis(axis)
    share = _share(empty)
    published = _published_folds(source, folds, splits_final)
    require('nibabel', extra='medical', purpose='NIfTI files')
    problems = Problems(source)
    layout = read_layout(source, problems)
    groups = find_groups(layout.cases, group_regex)
    cases = _open_cases(source, layout, problems)
    if axis is None:
        labels = [case.label for case in cases]
        axis = coarsest_axis([one.shape[:3] for one in labels], [one.spacing for one in labels])
    orientation = _orientation(cases)
    stored = _store(cases, out, axis, layout, force, problems)
    rows = [row for case in stored.values() for row in _rows(case, groups[case.name])]
    if published is None:
        splits: Splits = split_rows(rows, ratios, seed, folds=folds)
    else:
        splits = _as_published(rows, published, ratios, seed)
    intensity = []
    for fold, parts in by_fold(splits).items():
        train = dict.fromkeys(_case_of(row) for row in parts['train'])
        intensity.append(training_intensity([stored[name] for name in train]))
        path = f'{fold}/train' if fold else 'train'
        splits[path] = _without_empty(splits[path], share)
    info: dict[str, Any] = dict(
        dataset='nnunet',
        classes=layout.classes,
        channel_names=layout.channels,
        axis=axis,
        orientation=orientation,
        slice_size=_median_size(stored.values()),
        empty=empty,
        group_regex=group_regex,
        seed=seed,
        ratios=[float(ratio) for ratio in ratios],
        volumes=_digest(stored),
    )
    info[INTENSITY] = intensity if len(intensity) > 1 else intensity[0]
    write_splits(out, splits, info, force)
    return splits


def _published_folds(source: Path, folds: int | None, file: str | Path | None) -> Path | None:
    """Return the file with nnU-Net's folds; None if it is not used."""
    if file is not None and folds is not None:
        raise ValueError(f'Invalid options: expected folds or splits_final, got {folds} and {file}')
    if file is None:
        found = source / SPLITS_FINAL
        return found if folds is None and found.is_file() else None
    if not Path(file).is_file():
        raise FileNotFoundError(f'No file of folds {file} (--splits-final)')
    return Path(file)


def _as_published(
    rows: Sequence[SplitRow], path: Path, ratios: Sequence[float], seed: int
) -> Splits:
    """Split slices by the folds of their cases in a file of nnU-Net."""
    example = '[{"train": ["case_1", ...], "val": ["case_2", ...]}, ...]'
    try:
        content = json.loads(path.read_bytes())
        published = [tuple({*one[part]} for part in ('train', 'val')) for one in content]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: expected {example}, got {type(error).__name__}: {error}'
        ) from error
    cases = {_case_of(row) for row in rows}
    tested = Counter(name for _, val in published for name in val)
    named = {*tested}.union(*(train for train, _ in published))
    for what, names in (
        ('cases of the data set', named - cases),
        ('each case in val of one fold', {name for name in cases if tested[name] != 1}),
        ('cases either in train or in val', {name for one, two in published for name in one & two}),
    ):
        if names:
            listed = sorted(map(str, names))[:5]
            raise ValueError(f'{path}: expected {what}, got {", ".join(listed)}')
    splits: Splits = {}
    for number, (train, val) in enumerate(published):
        others = [row for row in rows if _case_of(row) in train]
        parts = split_rows(others, (*ratios[:2], 0), seed)
        parts['test'] = [row for row in rows if _case_of(row) in val]
        refuse_shared_groups(parts)
        splits |= {f'{fold_folder(number)}/{name}': part for name, part in parts.items()}
    return splits


def _share(empty: str) -> float:
    """Return the share of the empty training slices that is kept."""
    try:
        share = dict(keep=1.0, drop=0.0).get(empty)
        share = float(empty) if share is None else share
    except (TypeError, ValueError):
        share = np.nan
    if not 0 <= share <= 1:
        raise ValueError(
            f'Invalid empty: expected {KEEP}, {DROP} or a share between 0 and 1, got {empty!r}'
        )
    return share


def _open_cases(source: Path, layout: VolumeSet, problems: Problems) -> list[SourceCase]:
    """Read and compare the headers of all files."""
    number = len(layout.channels)

    def check(name: str) -> SourceCase:
        images, label = layout.cases[name]
        case = SourceCase(
            name, tuple(read_header(source / one) for one in images), read_header(source / label)
        )
        channels = sum(math.prod(one.shape[3:]) for one in case.images)
        if channels != number:
            raise ValueError(
                f'{images[0]}: expected the {number} channels {", ".join(layout.channels)} of '
                f'dataset.json, got {channels} in {len(images)} file(s), shape '
                f'{case.images[0].shape}'
            )
        if math.prod(case.label.shape[3:]) != 1:
            raise ValueError(f'{label}: expected one label per voxel, got {case.label.shape}')
        first = case.images[0]
        if first.unit not in ('mm', 'unknown'):
            raise ValueError(
                f'{images[0]}: expected an affine in millimeters (xyzt_units), got {first.unit}. '
                'Save the files of the case in millimeters'
            )
        for path, file in zip([*images[1:], label], [*case.images[1:], case.label], strict=True):
            if difference := grid_difference(first, file):
                raise ValueError(f'{path}: expected the grid of {images[0]}, got {difference}')
        return case

    return [case for _, case in problems.check_each(sorted(layout.cases), check, 'reading headers')]


def _orientation(cases: Sequence[SourceCase]) -> str | None:
    """Return the orientation of all cases; None, with a warning, if they have several."""
    found = Counter(case.label.orientation for case in cases)
    if len(found) > 1:
        numbers = ', '.join(f'{number} {name}' for name, number in found.most_common())
        warnings.warn(
            f'The volumes, and so their slices, differ in orientation ({numbers}). If this is not '
            'intended, reorient the files, for example with nibabel.as_closest_canonical',
            stacklevel=3,
        )
        return None
    return next(iter(found), None)


def _store(
    cases: Sequence[SourceCase],
    out: Path,
    axis: int,
    layout: VolumeSet,
    force: bool,
    problems: Problems,
) -> dict[str, Case]:
    folder = out / VOLUMES
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_files(folder)
    settings: dict[str, Any] = dict(
        channels=layout.channels, classes=len(layout.classes), ignore=layout.ignore
    )
    # Without split files, a conversion was stopped and may be continued with other settings.
    replace = force or not (out / INFO_FILE).exists()

    def store(case: SourceCase) -> Case:
        return store_case(case, folder, axis, **settings, replace=replace)

    stored = problems.check_each(cases, store, 'converting volumes', threads=_THREADS)
    return {source.name: case for source, case in stored}


def _rows(case: Case, group: str) -> list[SplitRow]:
    filled = {*case.filled}
    return [
        SplitRow(
            id=f'{case.name}_slice{number:04d}',
            path=slice_path(f'{case.name}.npy', number),
            group=group,
            label=int(number in filled),
            mask=slice_path(f'{case.name}_label.npy', number),
        )
        for number in range(case.slices)
    ]


def _case_of(row: SplitRow) -> str:
    return volume_file(row.path).removesuffix('.npy')


def _without_empty(rows: Sequence[SplitRow], share: float) -> list[SplitRow]:
    """Keep a share of the slices without foreground of each case, equally spaced."""
    kept, seen = [], Counter[str]()
    for row in rows:
        if not row.label:
            number = seen[_case_of(row)]
            seen[_case_of(row)] += 1
            if math.floor((number + 1) * share) == math.floor(number * share):
                continue
        kept.append(row)
    if not kept:
        raise ValueError(
            'Invalid empty: expected training slices with foreground, got none. Use --empty keep'
        )
    return kept


def _median_size(cases: Iterable[Case]) -> list[int]:
    """Return the median height and width of the slices over the cases."""
    sizes = [[case.shape[axis] for axis in case.axes[1:]] for case in cases]
    return [int(side) for side in np.median(sizes, axis=0)]


def _digest(cases: Mapping[str, Case]) -> str:
    """Hash the sources of the volumes, so that split files change with them."""
    origins = {name: case.source for name, case in sorted(cases.items())}
    return hashlib.sha256(json.dumps(origins, sort_keys=True).encode()).hexdigest()
