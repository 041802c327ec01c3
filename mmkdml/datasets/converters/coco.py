"""Custom data with boxes in COCO JSON."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mmkdml.datasets.coco_json import BoxImage, read_coco
from mmkdml.datasets.converters.box_checks import BoxSet, check_boxes, split_boxes, write_boxes
from mmkdml.datasets.converters.source_checks import Problems, Splits, folder_inside, source_folder
from mmkdml.datasets.converters.source_files import find_files
from mmkdml.datasets.splits.split_row import check_inside
from mmkdml.names import SPLITS


def coco_boxes(
    source: str | Path,
    annotations: Sequence[str],
    images: Sequence[str] = ('.',),
    group_regex: str | None = None,
    clip: bool = False,
    drop: Collection[str] = (),
) -> BoxSet:
    """Read and check images with boxes in COCO JSON files.

    Images without annotations are negatives. Annotations with ``iscrowd`` are ignored in training
    and evaluation. Segmentations are not used. Images that no file lists are skipped with a
    warning.

    Args:
        source: Folder with all files.
        annotations: One to three JSON files below ``source``, with the same classes.
        images: Folder below ``source`` that ``file_name`` is relative to; one for all files, or one
            for each.
        group_regex: See :func:`~mmkdml.datasets.class_folder_rows`.
        clip: See :func:`~mmkdml.datasets.converters.box_checks.check_boxes`, as ``drop``.
        drop: Kinds of boxes to drop.

    Raises:
        FileNotFoundError: If a file of annotations or a folder does not exist.
        ValueError: If a file is invalid, or its images do not exist. The message lists up to 10
            problems.
    """
    return _boxes(source, annotations, images, group_regex, clip, drop)[0]


def convert_coco(
    source: str | Path,
    out: str | Path,
    annotations: Sequence[str],
    images: Sequence[str] = ('.',),
    group_regex: str | None = None,
    clip: bool = False,
    drop: Collection[str] = (),
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
) -> Splits:
    """Write split files and ``annotations.json`` for boxes in COCO JSON; see :func:`coco_boxes`.

    Args:
        source: Folder with all files.
        out: Folder for the split files.
        annotations: One JSON file, which is divided by ``ratios``; or two or three, those of the
            published splits train, val and test.
        images: See :func:`coco_boxes`, as the following arguments.
        group_regex: Regular expression that finds the group in an image's path below ``source``.
        clip: Clip boxes to their images.
        drop: Kinds of boxes to drop.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        folds: See :func:`convert_lgg`.

    Raises:
        ValueError: If the published splits share a group, or are combined with ``folds``.
    """
    boxes, sets = _boxes(source, annotations, images, group_regex, clip, drop)
    info: dict[str, Any] = dict(
        dataset='coco', annotations=list(annotations), images=list(images), group_regex=group_regex
    )
    listed = None
    if len(annotations) == 1:
        info |= dict(seed=seed, ratios=[float(ratio) for ratio in ratios])
    else:
        listed = dict(zip(SPLITS, sets, strict=False))
    splits = split_boxes(boxes, ratios, seed, listed, folds)
    write_boxes(out, splits, boxes, info, force)
    return splits


def _boxes(
    source: str | Path,
    annotations: Sequence[str],
    folders: Sequence[str],
    group_regex: str | None,
    clip: bool,
    drop: Collection[str],
) -> tuple[BoxSet, list[set[str]]]:
    """Return the checked images, and the paths of those in each file."""
    problems = Problems(source_folder(source, 'the folder with images and JSON files'))
    sets, classes = _read(problems, annotations, folders)
    paths = [{image.path for image in one} for one in sets]
    _warn_of_unlisted(problems.source, {*folders}, set().union(*paths))
    found = [image for one in sets for image in one]
    if len({image.id for image in found}) < len(found):  # of several files
        found = [image._replace(id=number) for number, image in enumerate(found, 1)]
    folder = os.path.commonpath(folders) or '.'
    return check_boxes(problems, found, classes, group_regex, clip, drop, folder=folder), paths


def _read(
    problems: Problems, annotations: Sequence[str], folders: Sequence[str]
) -> tuple[list[list[BoxImage]], tuple[str, ...]]:
    """Return the images of each file, with paths below the source, and the classes."""
    if not 1 <= len(annotations) <= len(SPLITS) or len(folders) not in (1, len(annotations)):
        raise ValueError(
            f'expected 1 to {len(SPLITS)} files of annotations, and one folder of images or as '
            f'many, got {list(annotations)} and {list(folders)}'
        )
    sets: list[list[BoxImage]] = []
    classes: tuple[str, ...] = ()
    for number, name in enumerate(annotations):
        check_inside(name)
        folder = folders[number % len(folders)]
        folder_inside(problems.source, folder, f'a folder of images, relative to {problems.source}')
        found, images = read_coco(problems.source / name, partial(_add, problems, name))
        if sets and found != classes:
            problems.add(
                f'{name}: expected the classes of {annotations[0]}, {classes}, got {found}'
            )
        classes = classes or found
        sets.append([])
        for image in images:
            try:
                check_inside(image.path)
            except ValueError as error:
                problems.add(f'{name}: image {image.id}: {error}')
                continue
            path = PurePosixPath(folder, image.path).as_posix()
            sets[-1].append(image._replace(path=path))
    problems.stop_if_any()
    if not classes or not any(sets):
        raise ValueError(f'expected categories and images in {annotations[0]}, got none')
    return sets, classes


def _add(problems: Problems, name: str, problem: str) -> None:
    problems.add(f'{name}: {problem}')


def _warn_of_unlisted(source: Path, folders: Collection[str], listed: Collection[str]) -> None:
    files = {name for folder in folders for name in find_files(source / folder, source)}
    if unlisted := sorted(files - {*listed}):
        warnings.warn(
            f'{len(unlisted)} images are in no file of annotations and are skipped, such as '
            f'{unlisted[0]}',
            stacklevel=3,
        )
