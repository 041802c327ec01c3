"""Converter for LGG MRI segmentation (``kaggle_3m``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkdml.datasets.converters.source_checks import (
    Problems,
    Splits,
    foreground_share,
    masks_info,
    source_folder,
    warn_of_full_masks,
)
from mmkdml.datasets.converters.source_files import find_files
from mmkdml.datasets.splits import SplitRow, split_rows, write_splits
from mmkdml.datasets.splits.split_checks import warn_of_shared_groups
from mmkdml.datasets.splits.split_files import by_fold
from mmkdml.functional.checks import check_choice


def lgg_rows(source: str | Path, drawn_on: str | None = None) -> list[SplitRow]:
    """Read and check the LGG MRI segmentation data set (``kaggle_3m``).

    Args:
        source: Folder with a folder per patient, containing ``<slice>.tif`` (3 channels, 8 bit) and
            ``<slice>_mask.tif`` ({0, 255} or {0, 1}); or ``.TIF``, ``.tiff``. Other files
            (``data.csv``, ``README.md``) are ignored.
        drawn_on: See :func:`~mmkdml.datasets.images.read_binary_mask`.

    Returns:
        A row per slice: the id is the stem of the file, the group the folder of the patient, the
        label 1 if the mask has any foreground.

    Raises:
        FileNotFoundError: If ``source`` is not a folder.
        ValueError: If there are no slices, a file is invalid, or images and masks do not match.
            The message lists up to 10 problems.
    """
    source = source_folder(source, 'the folder kaggle_3m, with one folder per patient')
    problems = Problems(source)
    images: list[Path] = []
    masks: dict[Path, Path] = {}
    for name in find_files(source, source, ('.tif', '.tiff')):
        path = source / name
        if path.stem.lower().endswith('_mask'):
            first = masks.setdefault(path.with_name(path.stem[: -len('_mask')]), path)
            if first != path:
                problems.add(f'{name}: second mask of an image, after {first.name}')
        else:
            images.append(path)
    if not images:
        raise ValueError(f'no <patient>/<slice>.tif in {source}')
    seen: dict[str, Path] = {}
    pairs = []
    for image in images:
        name = image.relative_to(source).as_posix()
        mask = masks.pop(image.with_suffix(''), None)
        if image.parent.parent != source:
            problems.add(f'{name}: expected <patient>/<slice>.tif')
        elif seen.setdefault(image.stem, image) != image:
            problems.add(f'{name}: duplicate id, also in {seen[image.stem].parent.name}')
        elif mask is None:
            problems.add(f'{name}: no mask {image.stem}_mask.tif next to it')
        else:
            pairs.append((image, mask))
    for mask in masks.values():
        problems.add(f'{mask.relative_to(source).as_posix()}: mask without image')
    checked = [
        (image, mask.relative_to(source).as_posix(), share)
        for (image, mask), share in problems.check_each(
            pairs, lambda pair: foreground_share(*pair, drawn_on=drawn_on)
        )
    ]
    warn_of_full_masks({mask: share for _, mask, share in checked})
    return [
        SplitRow(
            id=image.stem,
            path=image.relative_to(source).as_posix(),
            group=image.parent.name,
            label=int(share > 0),
            mask=mask,
        )
        for image, mask, share in checked
    ]


def convert_lgg(
    source: str | Path,
    out: str | Path,
    split_by: str = 'patient',
    masks_drawn_on: str | None = None,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
) -> Splits:
    """Write the split files of LGG; see :func:`lgg_rows`.

    Args:
        source: The folder ``kaggle_3m``.
        out: Folder for the split files.
        split_by: ``'patient'`` keeps the slices of a patient in one split; ``'image'`` does not, so
            that metrics are overestimated.
        masks_drawn_on: See :func:`convert_folders`.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        folds: Number of folds of a cross-validation. Default: a single split by ``ratios``.

    Raises:
        ValueError: If ``split_by`` or ``masks_drawn_on`` is invalid.
    """
    check_choice('split_by', split_by, ('patient', 'image'))
    info = dict(dataset='lgg', split_by=split_by, seed=seed, ratios=[float(r) for r in ratios])
    info |= masks_info(masks_drawn_on)
    rows = lgg_rows(source, masks_drawn_on)
    splits = split_rows(rows, ratios, seed, by_image=split_by == 'image', folds=folds)
    if split_by == 'image':
        for parts in by_fold(splits).values():
            warn_of_shared_groups(parts, 'patients')
    write_splits(out, splits, info, force)
    return splits
