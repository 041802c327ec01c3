"""Folders of images and masks: pairs by name, binary masks, and masks of several classes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmkdml.datasets.channels import read_channels
from mmkdml.datasets.class_masks import ClassTable, read_class_mask
from mmkdml.datasets.converters.source_checks import (
    Problems,
    find_groups,
    folder_inside,
    foreground_share,
    paths_by_id,
    source_folder,
    warn_of_full_masks,
)
from mmkdml.datasets.converters.source_files import CHANNEL_SUFFIXES, SUFFIXES, find_files
from mmkdml.datasets.images import read_image_and_header
from mmkdml.datasets.splits import SplitRow, split_rows


def mask_pair_rows(
    source: str | Path,
    images: str,
    masks: str,
    mask_suffix: str = '',
    group_regex: str | None = None,
    drawn_on: str | None = None,
    channels: int | None = None,
) -> list[SplitRow]:
    """Read and check images with binary masks of the same names.

    Args:
        source: Folder that contains both folders.
        images: Folder of images below ``source``, 8 bit; subfolders are searched.
        masks: Folder of masks below ``source``, with the same subfolders; may be ``images`` if
            there is a ``mask_suffix``. See :func:`~mmkdml.datasets.images.read_binary_mask`.
        mask_suffix: Suffix of the masks' names: ``'_mask'`` pairs ``a.jpg`` with ``a_mask.png``.
        group_regex: See :func:`~mmkdml.datasets.class_folder_rows`.
        drawn_on: See :func:`~mmkdml.datasets.images.read_binary_mask`.
        channels: See :func:`~mmkdml.datasets.class_folder_rows`.

    Returns:
        A row per image: the id is its path below ``images`` without suffix, the label 1 if the mask
        has any foreground.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If a folder is not below ``source``, there are no images, a file is invalid, or
            images and masks do not match. The message lists up to 10 problems.
    """
    found = _Pairs(source, images, masks, mask_suffix, group_regex, channels)

    def check(image_id: str) -> float:
        return foreground_share(*found.files(image_id), None, drawn_on, channels)

    shares = dict(found.problems.check_each(found.ids, check))
    warn_of_full_masks({found.masks[image_id]: share for image_id, share in shares.items()})
    return [found.row(image_id, int(share > 0)) for image_id, share in shares.items()]


class _Pairs:
    """Images and masks of the same names; see :func:`mask_pair_rows`.

    Attributes:
        problems: Problems so far, such as images without a mask.
        masks: Path of the mask by id.
        ids: Sorted ids of images with a mask.
    """

    def __init__(
        self,
        source: str | Path,
        images: str,
        masks: str,
        mask_suffix: str,
        group_regex: str | None,
        channels: int | None,
    ) -> None:
        source = source_folder(source, 'the folder with the folders of images and of masks')
        problems = Problems(source)
        image_folder, mask_folder = (
            folder_inside(source, name, f'the folder of {kind}, relative to {source}')
            for kind, name in (('images', images), ('masks', masks))
        )
        if image_folder == mask_folder and not mask_suffix:
            raise ValueError(
                'Invalid mask_suffix: expected a suffix if images and masks share a folder, got '
                'none'
            )
        mask_files = [
            name
            for name in find_files(mask_folder, source)
            if Path(name).stem.endswith(mask_suffix)
        ]
        suffixes = suffixes_of(channels)
        image_files = sorted({*find_files(image_folder, source, suffixes)} - {*mask_files})
        if not image_files:
            arrays = find_files(image_folder, source, ('.npy',))
            hint = f'. For {arrays[0]} set channels (--channels)' if arrays else ''
            raise ValueError(f'no images ({", ".join(suffixes)}) in {image_folder}{hint}')
        image_paths = paths_by_id(image_files, problems, images)
        mask_paths = paths_by_id(mask_files, problems, masks, mask_suffix)
        for image_id in sorted(image_paths.keys() - mask_paths.keys()):
            problems.add(f'{image_paths[image_id]}: no mask {image_id}{mask_suffix} in {masks}')
        for image_id in sorted(mask_paths.keys() - image_paths.keys()):
            problems.add(f'{mask_paths[image_id]}: no image {image_id} in {images}')
        self.source, self.problems = source, problems
        self.images, self.masks = image_paths, mask_paths
        self.groups = find_groups(image_paths.values(), group_regex)
        self.ids = sorted(image_paths.keys() & mask_paths.keys())

    def files(self, image_id: str) -> tuple[Path, Path]:
        """Return the files of image and mask."""
        return self.source / self.images[image_id], self.source / self.masks[image_id]

    def row(self, image_id: str, label: int) -> SplitRow:
        """Return the row of a split file."""
        path = self.images[image_id]
        return SplitRow(image_id, path, self.groups[path], label, self.masks[image_id])


def class_mask_rows(
    source: str | Path,
    images: str,
    masks: str,
    table: ClassTable,
    classes: Sequence[str],
    mask_suffix: str = '',
    group_regex: str | None = None,
    drawn_on: str | None = None,
    channels: int | None = None,
) -> tuple[list[SplitRow], dict[str, np.ndarray]]:
    """Read and check images with masks of several classes of the same names.

    Args:
        source: See :func:`mask_pair_rows`, as ``images`` and ``masks``.
        images: Folder of images.
        masks: Folder of masks; see :func:`~mmkdml.datasets.class_masks.read_class_mask`.
        table: Values of the masks.
        classes: Names of the classes, the background first.
        mask_suffix: See :func:`mask_pair_rows`, as the following arguments.
        group_regex: See there.
        drawn_on: See there.
        channels: See there.

    Returns:
        A row per image, whose label is its rarest foreground class (the one in the fewest images; 0
        without foreground), and the number of pixels of each class, (K,), by id.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: As :func:`mask_pair_rows`, also if a mask has a value that is not in the table.
    """
    found = _Pairs(source, images, masks, mask_suffix, group_regex, channels)

    def check(image_id: str) -> np.ndarray:
        image, mask = found.files(image_id)
        if channels is None:
            _, header = read_image_and_header(image, None)
        else:
            _, header = read_channels(image, channels)
        indices = read_class_mask(mask, table, header, drawn_on)
        return np.bincount(indices.ravel(), minlength=256)[: len(classes)]

    pixels = dict(found.problems.check_each(found.ids, check))
    number = np.sum([one > 0 for one in pixels.values()], 0)
    _warn_of_absent(classes, number, {found.masks[key]: one for key, one in pixels.items()})

    def rarest(own: np.ndarray) -> int:
        present = np.flatnonzero(own[1:]) + 1
        return int(present[number[present].argmin()]) if len(present) else 0

    return [found.row(image_id, rarest(own)) for image_id, own in pixels.items()], pixels


def split_by_rarest_class(
    rows: Sequence[SplitRow], ratios: Sequence[float], seed: int, folds: int | None = None
) -> dict[str, list[SplitRow]]:
    """Divide images into splits that all contain rare classes, without dividing groups.

    Groups are divided separately by :func:`strata`.

    Args:
        rows: Rows of :func:`class_mask_rows`.
        ratios: Shares of train, val and test.
        seed: Any integer.
        folds: Number of folds of a cross-validation, see :func:`split_rows`.
    """
    stratum = strata(rows, folds or sum(ratio > 0 for ratio in ratios))
    several = len({*stratum.values()}) > 1
    marked = [replace(row, label=stratum[row.group]) for row in rows]
    splits = split_rows(marked, ratios, seed, by_class=several, folds=folds)
    by_id = {row.id: row for row in rows}
    return {name: [by_id[row.id] for row in part] for name, part in splits.items()}


def strata(rows: Sequence[SplitRow], parts: int) -> dict[str, int]:
    """Return the stratum of each group: the rarest of the labels of its images.

    A stratum of fewer groups than ``parts`` is merged with the next larger one.
    """
    images = Counter(row.label for row in rows)
    labels: dict[str, int] = {}
    for row in rows:
        other = labels.get(row.group, row.label)
        labels[row.group] = min(row.label, other, key=lambda one: (one == 0, images[one], one))
    while True:
        sizes = sorted(Counter(labels.values()).items(), key=lambda item: (item[1], item[0]))
        if len(sizes) < 2 or sizes[0][1] >= parts:
            return labels
        (small, _), (larger, _), *_ = sizes
        labels = {group: larger if one == small else one for group, one in labels.items()}


def mask_counts(
    splits: Mapping[str, Sequence[SplitRow]],
    pixels: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> dict[str, dict[str, dict[str, int]]]:
    """Count the images with each class, and its pixels, in each split."""
    counts = {}
    for split, rows in splits.items():
        table = np.stack([pixels[row.id] for row in rows])
        numbers = zip(classes, (table > 0).sum(0).tolist(), table.sum(0).tolist(), strict=True)
        counts[split] = {name: dict(images=one, pixels=all_of) for name, one, all_of in numbers}
    return counts


def _warn_of_absent(
    classes: Sequence[str], number: np.ndarray, pixels: Mapping[str, np.ndarray]
) -> None:
    absent = [name for name, images in zip(classes, number, strict=True) if images == 0]
    ignored = [path for path, own in pixels.items() if not own.any()]
    if absent:
        warnings.warn(f'no mask has a pixel of {", ".join(absent)}', stacklevel=3)
    if ignored:
        warnings.warn(
            f'{len(ignored)} of {len(pixels)} masks are ignored entirely, such as {ignored[0]}',
            stacklevel=3,
        )


def suffixes_of(channels: int | None) -> tuple[str, ...]:
    """Return the suffixes of images with a number of channels, None for gray and RGB."""
    return SUFFIXES if channels is None else CHANNEL_SUFFIXES
