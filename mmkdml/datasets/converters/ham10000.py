"""Converter for HAM10000: images, ``HAM10000_metadata.csv`` and lesion masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmkdml.datasets.converters.source_checks import (
    Problems,
    Splits,
    foreground_share,
    masks_info,
    source_folder,
    warn_of_full_masks,
)
from mmkdml.datasets.converters.source_files import find_files, read_table
from mmkdml.datasets.images import read_image
from mmkdml.datasets.splits import SplitRow, balance_rows, split_rows, write_splits
from mmkdml.datasets.splits.split_checks import warn_of_shared_groups
from mmkdml.datasets.splits.split_files import by_fold
from mmkdml.functional.checks import check_choice

DIAGNOSES = ('akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc')
METADATA = 'HAM10000_metadata.csv'
_JPEG = ('.jpg', '.jpeg')
PARTS = ('HAM10000_images_part_1', 'HAM10000_images_part_2')
MASK_SUFFIX = '_segmentation'


def ham10000_rows(
    source: str | Path, masks: bool = False, drawn_on: str | None = None
) -> list[SplitRow]:
    """Read and check HAM10000 (Tschandl et al. 2018, doi 10.7910/DVN/DBW86T).

    Args:
        source: Folder with ``HAM10000_metadata.csv`` (columns lesion_id, image_id, dx and others;
            Dataverse's ``.tab``, too) and ``<image_id>.jpg`` (8-bit RGB) in
            ``HAM10000_images_part_1`` and ``_part_2`` or, if neither exists, in any subfolder.
        masks: Also read ``<image_id>_segmentation.png`` in any subfolder; see
            :func:`~mmkdml.datasets.images.read_binary_mask`.
        drawn_on: See :func:`~mmkdml.datasets.images.read_binary_mask`.

    Returns:
        A row per image: the group is its lesion, the label the index of its ``dx`` in
        :data:`DIAGNOSES`.

    Raises:
        FileNotFoundError: If ``source`` is not a folder or has no ``HAM10000_metadata.csv``.
        ValueError: If there are no images, a file or row is invalid, or files and rows do not
            match. The message lists up to 10 problems.
    """
    source = source_folder(source, f'the folder with the images and {METADATA}')
    problems = Problems(source)
    table, metadata = _read_metadata(source, problems)
    folders = [source / part for part in PARTS if (source / part).is_dir()] or [source]
    images = _by_name([p for f in folders for p in find_files(f, source, _JPEG)], problems)
    if not images:
        raise ValueError(f'no <image_id>.jpg in {" or ".join(map(str, folders))}')
    files = dict(image=images)
    if masks:
        found = find_files(source, source, [f'{MASK_SUFFIX}.png'])
        files['mask'] = _by_name(found, problems, MASK_SUFFIX)
    for kind, by_name in files.items():
        for name in sorted(metadata.keys() - by_name.keys()):
            problems.add(f'{table}: no {kind} of {name}')
        for name in sorted(by_name.keys() - metadata.keys()):
            problems.add(f'{by_name[name]}: no row in {table}')
    problems.stop_if_any()

    def check(name: str) -> float:
        if masks:
            paths = source / images[name], source / files['mask'][name]
            return foreground_share(*paths, drawn_on=drawn_on)
        read_image(source / images[name], modes=('RGB',))
        return 0.0

    shares = dict(problems.check_each(sorted(metadata), check))
    if masks:
        warn_of_full_masks({files['mask'][name]: share for name, share in shares.items()})
    return [
        SplitRow(name, images[name], *metadata[name], files['mask'][name] if masks else None)
        for name in shares
    ]


def convert_ham10000(
    source: str | Path,
    out: str | Path,
    task: str,
    split_by: str = 'lesion',
    balance: int | str | None = None,
    masks_drawn_on: str | None = None,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
) -> Splits:
    """Write the split files of HAM10000; see :func:`ham10000_rows`.

    All splits have equal class proportions; the training split, of each fold, may then be balanced.

    Args:
        source: Folder with the images and ``HAM10000_metadata.csv``.
        out: Folder for the split files.
        task: ``'cls'``, or ``'seg'`` with masks. Both have the same images in each split.
        split_by: ``'lesion'`` keeps the images of a lesion in one split; ``'image'`` does not, so
            that metrics are overestimated.
        balance: Samples per diagnosis in a training epoch, see
            :func:`~mmkdml.datasets.balance_rows`. ``'mean'`` keeps the length of the epoch;
            ``'none'`` disables balancing. Default: ``'mean'`` for ``'cls'``, ``'none'`` for
            ``'seg'``.
        masks_drawn_on: See :func:`convert_folders`; only for ``'seg'``.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        folds: See :func:`convert_lgg`.

    Raises:
        ValueError: If ``task``, ``split_by``, ``balance`` or ``masks_drawn_on`` is invalid.
    """
    check_choice('task', task, ('cls', 'seg'))
    check_choice('split_by', split_by, ('lesion', 'image'))
    if balance is None:
        balance = 'mean' if task == 'cls' else 'none'
    if isinstance(balance, str):
        check_choice('balance', balance, ('mean', 'none'))
    drawn_on = masks_info(masks_drawn_on)
    if task == 'cls' and drawn_on:
        raise ValueError(f"masks_drawn_on: expected None for task 'cls', got {masks_drawn_on!r}")
    rows = ham10000_rows(source, task == 'seg', masks_drawn_on)
    splits = split_rows(
        rows,
        ratios,
        seed,
        by_image=split_by == 'image',
        by_class=True,
        classes=DIAGNOSES,
        folds=folds,
    )
    if split_by == 'image':
        for parts in by_fold(splits).values():
            warn_of_shared_groups(parts, 'lesions')
    info: dict[str, Any] = dict(
        dataset='ham10000',
        task=task,
        split_by=split_by,
        seed=seed,
        ratios=[float(r) for r in ratios],
        classes=DIAGNOSES,
        images_per_class={name: _per_class(part) for name, part in splits.items()},
        **drawn_on,
    )
    for name, train in splits.items():
        if balance == 'none' or name.rpartition('/')[2] != 'train':
            continue
        classes = len({row.label for row in train})
        target = round(len(train) / classes) if balance == 'mean' else int(balance)
        splits[name] = balance_rows(train, target, seed)
        if folds is None:
            info['balanced_to'] = target
        else:
            info.setdefault('balanced_to', []).append(target)
    write_splits(out, splits, info, force)
    return splits


def _per_class(rows: Iterable[SplitRow]) -> dict[str, int]:
    counts = Counter(DIAGNOSES[row.label] for row in rows)
    return {dx: counts[dx] for dx in DIAGNOSES}


def _read_metadata(source: Path, problems: Problems) -> tuple[str, dict[str, tuple[str, int]]]:
    """Return the name of the table, and lesion and label of each image."""
    table, rows = read_table(source, METADATA, ['lesion_id', 'image_id', 'dx'])
    images: dict[str, tuple[str, int]] = {}
    diagnoses: dict[str, str] = {}
    for line, (lesion, image, dx) in rows:
        where = f'{table}, line {line}'
        if not lesion.strip() or not image.strip():
            problems.add(f'{where}: lesion_id or image_id is empty')
        elif dx not in DIAGNOSES:
            problems.add(f'{where}: expected one of {", ".join(DIAGNOSES)} as dx, got {dx!r}')
        elif image in images:
            problems.add(f'{where}: duplicate image_id {image}')
        elif diagnoses.setdefault(lesion, dx) != dx:
            problems.add(f'{where}: lesion {lesion} is {dx}, but {diagnoses[lesion]} above')
        else:
            images[image] = (lesion, DIAGNOSES.index(dx))
    problems.stop_if_any()
    return table, images


def _by_name(files: Iterable[str], problems: Problems, suffix: str = '') -> dict[str, str]:
    """Return paths by the stem of the file without the suffix."""
    by_name: dict[str, str] = {}
    for path in files:
        stem = Path(path).stem
        name = stem[: len(stem) - len(suffix)]
        if by_name.setdefault(name, path) != path:
            problems.add(f'{path}: also in {Path(by_name[name]).parent.name} ({by_name[name]})')
    return by_name
