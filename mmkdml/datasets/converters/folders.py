"""Custom data: a folder of images per class, or a folder of images and one of masks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmkdml.datasets.channels import read_channels
from mmkdml.datasets.converters.source_checks import (
    Problems,
    Splits,
    foreground_share,
    masks_info,
    source_folder,
    warn_of_full_masks,
)
from mmkdml.datasets.converters.source_files import CHANNEL_SUFFIXES, SUFFIXES, find_files
from mmkdml.datasets.images import read_image
from mmkdml.datasets.splits import SplitRow, split_rows, write_splits


def class_folder_rows(
    source: str | Path, group_regex: str | None = None, channels: int | None = None
) -> tuple[list[SplitRow], tuple[str, ...]]:
    """Read and check images in class folders, the layout of the MSI-vs-MSS tiles.

    Args:
        source: Folder with ``<class>/**/<image>`` (8 bit; PNG, JPEG, TIFF, BMP, GIF or WebP).
            Folders without images and hidden files and folders are ignored.
        group_regex: Regular expression that is searched in each image's path below ``source``. Its
            named group ``group``, or else its first group, is the image's group. Default: each
            image is a group.
        channels: Number of channels of all images, which are then read by
            :func:`~mmkdml.datasets.channels.read_channels`. Default: gray or RGB, 8 bit.

    Returns:
        A row per image, and the sorted names of the classes. The label is the index of the class,
        the id the path below ``source`` without suffix.

    Raises:
        FileNotFoundError: If ``source`` is not a folder.
        ValueError: If there are fewer than two classes, or images or ``group_regex`` are invalid.
            The message lists up to 10 problems.
    """
    source = source_folder(source, 'the folder with one folder of images per class')
    problems = Problems(source)
    found = find_files(source, source, _suffixes_of(channels))
    for name in (name for name in found if '/' not in name):
        problems.add(f'{name}: not in a class folder')
    images = paths_by_id((name for name in found if '/' in name), problems)
    classes = sorted({image_id.partition('/')[0] for image_id in images})
    if len(classes) < 2:
        raise ValueError(
            f'expected folders of images of two classes or more in {source}, got {classes}'
        )
    groups = find_groups(images.values(), group_regex)

    def check(image_id: str) -> None:
        if channels is None:
            read_image(source / images[image_id])
        else:
            read_channels(source / images[image_id], channels)

    rows = [
        SplitRow(
            id=image_id,
            path=images[image_id],
            group=groups[images[image_id]],
            label=classes.index(image_id.partition('/')[0]),
        )
        for image_id, _ in problems.check_each(sorted(images), check)
    ]
    return rows, tuple(classes)


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
        group_regex: See :func:`class_folder_rows`.
        drawn_on: See :func:`~mmkdml.datasets.images.read_binary_mask`.
        channels: See :func:`class_folder_rows`.

    Returns:
        A row per image: the id is its path below ``images`` without suffix, the label 1 if the mask
        has any foreground.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If a folder is not below ``source``, there are no images, a file is invalid, or
            images and masks do not match. The message lists up to 10 problems.
    """
    source = source_folder(source, 'the folder with the folders of images and of masks')
    problems = Problems(source)
    image_folder, mask_folder = (
        folder_inside(source, name, f'the folder of {kind}, relative to {source}')
        for kind, name in (('images', images), ('masks', masks))
    )
    if image_folder == mask_folder and not mask_suffix:
        raise ValueError(
            'Invalid mask_suffix: expected a suffix if images and masks share a folder, got none'
        )
    mask_files = [
        name for name in find_files(mask_folder, source) if Path(name).stem.endswith(mask_suffix)
    ]
    suffixes = _suffixes_of(channels)
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
    groups = find_groups(image_paths.values(), group_regex)

    def check(image_id: str) -> float:
        paths = source / image_paths[image_id], source / mask_paths[image_id]
        return foreground_share(*paths, None, drawn_on, channels)

    paired = sorted(image_paths.keys() & mask_paths.keys())
    shares = dict(problems.check_each(paired, check))
    warn_of_full_masks({mask_paths[image_id]: share for image_id, share in shares.items()})
    return [
        SplitRow(
            id=image_id,
            path=image_paths[image_id],
            group=groups[image_paths[image_id]],
            label=int(share > 0),
            mask=mask_paths[image_id],
        )
        for image_id, share in shares.items()
    ]


def convert_folders(
    source: str | Path,
    out: str | Path,
    images: str | None = None,
    masks: str | None = None,
    mask_suffix: str = '',
    group_regex: str | None = None,
    masks_drawn_on: str | None = None,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    channels: int | None = None,
    folds: int | None = None,
) -> Splits:
    """Write split files for class folders, or for image and mask folders if these are named.

    Splits of class folders have equal class proportions, unless a group has images of several
    classes. See :func:`class_folder_rows` and :func:`mask_pair_rows`.

    Args:
        source: Folder with all images.
        out: Folder for the split files.
        images: Folder of images below ``source``.
        masks: Folder of masks below ``source``.
        mask_suffix: Suffix of the masks' names.
        group_regex: Regular expression that finds the group in an image's path below ``source``.
        masks_drawn_on: ``drawn_on`` of :func:`~mmkdml.datasets.images.read_binary_mask`, recorded
            in ``splits.json`` for the data set.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        channels: See :func:`class_folder_rows`.
        folds: See :func:`convert_lgg`.

    Raises:
        ValueError: If only one of ``images`` and ``masks`` is set, or ``mask_suffix`` or
            ``masks_drawn_on`` without them.
    """
    info: dict[str, Any] = dict(dataset='folders', group_regex=group_regex, seed=seed)
    info |= {} if channels is None else dict(channels=channels)
    if images is not None and masks is not None:
        info |= masks_info(masks_drawn_on)
        rows = mask_pair_rows(
            source, images, masks, mask_suffix, group_regex, masks_drawn_on, channels
        )
        by_class, classes = False, None
        info |= dict(images=images, masks=masks, mask_suffix=mask_suffix)
    elif images is None and masks is None and not mask_suffix and masks_drawn_on is None:
        rows, classes = class_folder_rows(source, group_regex, channels)
        by_class = len({(r.group, r.label) for r in rows}) == len({r.group for r in rows})
        info |= dict(classes=classes, by_class=by_class)
    else:
        raise ValueError(
            'expected both images and masks, or neither and no mask option, got '
            f'images {images!r}, masks {masks!r}, mask_suffix {mask_suffix!r}, masks_drawn_on '
            f'{masks_drawn_on!r}'
        )
    splits = split_rows(rows, ratios, seed, by_class=by_class, classes=classes, folds=folds)
    write_splits(out, splits, info | dict(ratios=[float(r) for r in ratios]), force)
    return splits


def _suffixes_of(channels: int | None) -> tuple[str, ...]:
    """Return the suffixes of images with a number of channels, None for gray and RGB."""
    return SUFFIXES if channels is None else CHANNEL_SUFFIXES


def folder_inside(source: Path, name: str, what: str) -> Path:
    """Return a folder below ``source``; raise an error if it is elsewhere or does not exist."""
    if Path(name).is_absolute() or '..' in Path(name).parts:
        raise ValueError(f'expected {what}, got {name!r}')
    return source_folder(source / name, what)


def paths_by_id(
    paths: Iterable[str], problems: Problems, folder: str = '.', suffix: str = ''
) -> dict[str, str]:
    """Return paths by image id: the path without folder, file suffix and mask suffix."""
    by_id: dict[str, str] = {}
    for path in paths:
        image_id = Path(path).relative_to(folder).with_suffix('').as_posix().removesuffix(suffix)
        if by_id.setdefault(image_id, path) != path:
            problems.add(f'{path}: differs from {by_id[image_id]} only in the suffix')
    return by_id


def find_groups(paths: Collection[str], regex: str | None) -> dict[str, str]:
    """Return the group of each path: what ``regex`` finds in it, or without one the path."""
    if regex is None:
        return {path: path for path in paths}
    try:
        pattern = re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f'Invalid regular expression {regex!r}: {error}') from error
    if not pattern.groups:
        raise ValueError(
            f'expected a regular expression with a group in parentheses, got {regex!r}'
        )
    which = 'group' if 'group' in pattern.groupindex else 1
    groups = {path: match[which] for path in paths if (match := pattern.search(path))}
    if without := [path for path in paths if not groups.get(path)]:
        raise ValueError(
            f'{regex!r} finds no group in {len(without)} of {len(paths)} images, such as '
            f'{", ".join(without[:3])}'
        )
    return groups
