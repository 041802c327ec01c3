"""Checks of boxes, shared by the converters for detection, and their split files."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkdml.datasets.coco_json import Box, BoxImage, coco_json
from mmkdml.datasets.converters.source_checks import Problems, Splits, find_groups, refuse_folds
from mmkdml.datasets.images import read_image_and_header
from mmkdml.datasets.splits import SplitRow, refuse_shared_groups, split_rows, write_splits
from mmkdml.datasets.splits.manifest import BOXES_FILE
from mmkdml.functional.checks import check_choice
from mmkdml.names import SPLITS

#: Kinds of boxes that converters can drop.
DROPPED = ('empty', 'duplicates')
# Boxes may leave the image by as many pixels, because of rounded numbers.
_ROUNDING = 0.05


class BoxSet(NamedTuple):
    """Checked images with boxes.

    Attributes:
        rows: A row per image; ``labels`` are the names of its classes, ignored boxes excluded.
        images: The images in the order of the rows, with their sizes.
        classes: Names of the classes.
    """

    rows: list[SplitRow]
    images: list[BoxImage]
    classes: tuple[str, ...]


def check_boxes(
    problems: Problems,
    images: Sequence[BoxImage],
    classes: Sequence[str],
    group_regex: str | None = None,
    clip: bool = False,
    drop: Collection[str] = (),
    fractions: bool = False,
    folder: str = '.',
) -> BoxSet:
    """Check the files and boxes of images, and build their rows.

    Args:
        problems: Problems found so far.
        images: The images, with paths below the source.
        classes: Names of the classes.
        group_regex: See :func:`~mmkdml.datasets.class_folder_rows`.
        clip: Clip boxes to their images. Default: a box that leaves its image is a problem.
        drop: ``'empty'`` drops boxes without width or height, also after clipping, and
            ``'duplicates'`` those with class and corners of another one in the image. Default: they
            are problems.
        fractions: Corners are fractions of width and height instead of pixels.
        folder: Folder of the images below the source, which is not part of their ids.

    Raises:
        ValueError: If an argument is invalid, or there are problems; lists up to 10 of them.
    """
    for kind in drop:
        check_choice('drop', kind, DROPPED)
    source = problems.source
    groups = find_groups([image.path for image in images], group_regex)
    changed: Counter[str] = Counter()
    rotated: list[str] = []
    rows, checked = [], []

    def check(image: BoxImage) -> tuple[tuple[int, int], bool]:
        return _size_of(source / image.path, image)

    for image, (size, is_rotated) in problems.check_each(images, check):
        rotated += [image.path] * is_rotated
        boxes = _tidy(image, size if fractions else (1, 1), size, clip, drop, changed, problems)
        names = {classes[box.label] for box in boxes if not box.ignored}
        labels = tuple(name for name in classes if name in names)
        own = Path(image.path).relative_to(folder).with_suffix('').as_posix()
        try:
            rows.append(
                SplitRow(own, image.path, groups[image.path], int(bool(labels)), labels=labels)
            )
        except ValueError as error:
            problems.add(f'{image.path}: {error}')
        checked.append(image._replace(size=size, boxes=boxes))
    problems.stop_if_any()
    total = sum(len(image.boxes) for image in images)
    for kind, count in sorted(changed.items()):
        warnings.warn(f'{count} of {total} boxes are {kind}', stacklevel=3)
    if rotated:
        warnings.warn(
            f'{len(rotated)} images have an EXIF orientation, such as {rotated[0]}. Their boxes '
            'must refer to the images as displayed',
            stacklevel=3,
        )
    return BoxSet(rows, checked, tuple(classes))


def split_boxes(
    boxes: BoxSet,
    ratios: Sequence[float],
    seed: int,
    listed: Mapping[str, Collection[str]] | None = None,
    folds: int | None = None,
) -> Splits:
    """Divide images into splits, by group, or as published.

    Args:
        boxes: The images.
        ratios: Shares of train, val and test.
        seed: Any integer.
        listed: Paths of the images of each published split, instead of ``ratios`` and ``seed``.
        folds: Number of folds, see :func:`~mmkdml.datasets.splits.split_rows`.

    Raises:
        ValueError: If a published split has no images, divides a group, or is combined with
            ``folds``.
    """
    if listed is None:
        return split_rows(boxes.rows, ratios, seed, folds=folds)
    refuse_folds(folds, 'published splits')
    splits = {
        name: [row for row in boxes.rows if row.path in listed[name]]
        for name in SPLITS
        if name in listed
    }
    refuse_shared_groups(splits)
    if unused := len(boxes.rows) - sum(map(len, splits.values())):
        warnings.warn(f'{unused} of {len(boxes.rows)} images are in no split', stacklevel=3)
    return splits


def write_boxes(
    out: str | Path, splits: Splits, boxes: BoxSet, info: Mapping[str, Any], force: bool
) -> None:
    """Write the split files, ``annotations.json`` and the manifest with the counts of boxes."""
    by_path = {image.path: image for image in boxes.images}
    counts = {
        name: boxes_per_class((by_path[row.path] for row in rows), boxes.classes)
        for name, rows in splits.items()
    }
    used = {row.path for rows in splits.values() for row in rows}
    content = coco_json(boxes.classes, (image for image in boxes.images if image.path in used))
    info = dict(info, classes=boxes.classes, boxes=counts)
    write_splits(out, splits, info, force, {BOXES_FILE: content})


def boxes_per_class(images: Iterable[BoxImage], classes: Sequence[str]) -> dict[str, int]:
    """Count the boxes of each class, ignored ones excluded."""
    counts = Counter(box.label for image in images for box in image.boxes if not box.ignored)
    return {name: counts[label] for label, name in enumerate(classes)}


def _size_of(path: Path, image: BoxImage) -> tuple[tuple[int, int], bool]:
    """Return the displayed size of an image, and whether EXIF rotates it and no size proves it."""
    if not path.is_file():
        raise ValueError(f'{image.path}: no such image, which the annotations name')
    pixels, header = read_image_and_header(path)
    size = pixels.shape[1], pixels.shape[0]
    if image.size not in (None, size):
        width, height = image.size or size
        stored = header.orientation > 1 and header.size == image.size
        raise ValueError(
            f'{image.path}: the image is {size[0]}x{size[1]}, its annotation {width}x{height}'
            + ', the size before EXIF rotation. Boxes must refer to the displayed image' * stored
        )
    proven = image.size is not None and header.size != header.shown_size
    return size, header.orientation > 1 and not proven


def _tidy(
    image: BoxImage,
    scale: tuple[int, int],
    size: tuple[int, int],
    clip: bool,
    drop: Collection[str],
    changed: Counter[str],
    problems: Problems,
) -> tuple[Box, ...]:
    """Return the valid boxes of an image in pixels, and report or count the others."""
    kept: dict[Any, Box] = {}
    width, height = size
    for box in image.boxes:
        where = f'{image.path}: {box.where}'
        x1, y1, x2, y2 = corners = tuple(
            value * one for value, one in zip(box.corners, scale * 2, strict=True)
        )
        inside = (_within(x1, width), _within(y1, height), _within(x2, width), _within(y2, height))
        outside = max(abs(a - b) for a, b in zip(corners, inside, strict=True)) > _ROUNDING
        told = f'{tuple(round(value, 2) for value in corners)} in {width}x{height} pixels'
        empty = x2 <= x1 or y2 <= y1
        if outside and not empty:
            if not clip:
                problems.add(f'{where}: box outside of the image, {told}')
                continue
            changed['clipped to their images'] += 1
        if empty or inside[2] <= inside[0] or inside[3] <= inside[1]:
            if 'empty' not in drop:
                problems.add(f'{where}: empty box {told}')
            changed['empty and dropped'] += 1
            continue
        tidy = box._replace(corners=inside)
        key = tidy.label, tidy.corners
        if key in kept:
            if 'duplicates' not in drop:
                problems.add(f'{where}: duplicate box {told}, as {kept[key].where}')
            changed['duplicates and dropped'] += 1
            continue
        kept[key] = tidy
    return tuple(kept.values())


def _within(value: float, limit: int) -> float:
    return float(min(max(value, 0), limit))
