"""Custom data: a folder of images per class, or a folder of images and one of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkdml.datasets.channels import read_channels
from mmkdml.datasets.class_masks import MASK_TABLE
from mmkdml.datasets.converters.class_table import read_class_table
from mmkdml.datasets.converters.mask_folders import (
    class_mask_rows,
    mask_counts,
    mask_pair_rows,
    split_by_rarest_class,
    suffixes_of,
)
from mmkdml.datasets.converters.source_checks import (
    Problems,
    Splits,
    find_groups,
    masks_info,
    paths_by_id,
    source_folder,
)
from mmkdml.datasets.converters.source_files import find_files
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
    found = find_files(source, source, suffixes_of(channels))
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
    classes: str | None = None,
    ignore: Sequence[str] = (),
    folds: int | None = None,
) -> Splits:
    """Write split files for class folders, or for image and mask folders if these are named.

    Splits of class folders have equal class proportions, unless a group has images of several
    classes. Those of masks with several classes have images of each class if there are enough
    groups. See :func:`class_folder_rows`, :func:`mask_pair_rows` and
    :func:`~mmkdml.datasets.class_mask_rows`.

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
        classes: Table of the classes of masks below ``source``; see
            :func:`~mmkdml.datasets.converters.class_table.read_class_table`. Recorded in
            ``splits.json`` for the data set. Default: binary masks.
        ignore: Values of ignored pixels in masks with ``classes``, such as ``'255'``.
        folds: See :func:`convert_lgg`.

    Raises:
        FileNotFoundError: If a folder or the table of classes does not exist.
        ValueError: If only one of ``images`` and ``masks`` is set, or ``mask_suffix``,
            ``masks_drawn_on``, ``classes`` or ``ignore`` without them.
    """
    info: dict[str, Any] = dict(dataset='folders', group_regex=group_regex, seed=seed)
    info |= {} if channels is None else dict(channels=channels)
    if ignore and classes is None:
        raise ValueError(
            f'Invalid ignore (--ignore) {list(ignore)}: expected classes (--classes), got none. '
            'Binary masks have no ignored pixels'
        )
    mask_options = mask_suffix, masks_drawn_on, classes
    if images is not None and masks is not None:
        info |= masks_info(masks_drawn_on)
        info |= dict(images=images, masks=masks, mask_suffix=mask_suffix)
        options = mask_suffix, group_regex, masks_drawn_on, channels
        if classes is None:
            rows = mask_pair_rows(source, images, masks, *options)
            splits = split_rows(rows, ratios, seed, folds=folds)
        else:
            names, table = read_class_table(Path(source), classes, ignore)
            rows, pixels = class_mask_rows(source, images, masks, table, names, *options)
            splits = split_by_rarest_class(rows, ratios, seed, folds)
            info |= {'classes': names, MASK_TABLE: table.to_info()}
            info |= dict(mask_counts=mask_counts(splits, pixels, names))
    elif images is None and masks is None and not any(mask_options):
        rows, of_folders = class_folder_rows(source, group_regex, channels)
        by_class = len({(r.group, r.label) for r in rows}) == len({r.group for r in rows})
        splits = split_rows(rows, ratios, seed, by_class=by_class, classes=of_folders, folds=folds)
        info |= dict(classes=of_folders, by_class=by_class)
    else:
        raise ValueError(
            'expected both images and masks, or neither and no mask option, got '
            f'images {images!r}, masks {masks!r}, mask_suffix {mask_suffix!r}, masks_drawn_on '
            f'{masks_drawn_on!r}, classes {classes!r}'
        )
    write_splits(out, splits, info | dict(ratios=[float(r) for r in ratios]), force)
    return splits
