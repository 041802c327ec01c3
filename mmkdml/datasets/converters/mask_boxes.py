"""Boxes from binary masks: of each connected component."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmkdml.datasets.coco_json import Box, BoxImage
from mmkdml.datasets.converters.box_checks import BoxSet, write_boxes
from mmkdml.datasets.converters.ham10000 import DIAGNOSES, ham10000_rows
from mmkdml.datasets.converters.lgg import lgg_rows
from mmkdml.datasets.converters.mask_folders import mask_pair_rows
from mmkdml.datasets.converters.source_checks import Problems, Splits, masks_info
from mmkdml.datasets.images import read_binary_mask, read_header
from mmkdml.datasets.splits import SplitRow, split_rows
from mmkdml.functional.checks import check_choice

Corners = tuple[int, int, int, int]
#: Name of the only class by layout.
CLASSES = dict(folders='object', ham10000='lesion', lgg='tumour')


def component_boxes(mask: np.ndarray, min_area: int = 1) -> tuple[list[Corners], int]:
    """Return the boxes of the connected components of a mask.

    Args:
        mask: Mask (H, W), uint8, foreground > 0. Diagonal neighbours are connected.
        min_area: Smallest number of pixels of a component.

    Returns:
        Boxes (x1, y1, x2, y2) in pixels, by rows of their first pixels, and the number of smaller
        components.
    """
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes = [
        (int(x), int(y), int(x + width), int(y + height))
        for x, y, width, height, area in stats[1:count]
        if area >= min_area
    ]
    return boxes, count - 1 - len(boxes)


def convert_mask_boxes(
    source: str | Path,
    out: str | Path,
    layout: str = 'folders',
    images: str | None = None,
    masks: str | None = None,
    mask_suffix: str = '',
    group_regex: str | None = None,
    name: str | None = None,
    min_area: int = 16,
    masks_drawn_on: str | None = None,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
) -> Splits:
    """Write split files and ``annotations.json`` with a box per connected component of a mask.

    The splits are those of the converter for segmentation with the same ratios and seed. The split
    files keep the masks, so that they also serve segmentation.

    Args:
        source: Folder of the data set.
        out: Folder for the split files.
        layout: ``'folders'`` of images and masks, see :func:`~mmkdml.datasets.mask_pair_rows`;
            ``'ham10000'``, see :func:`~mmkdml.datasets.ham10000_rows`; or ``'lgg'``, see
            :func:`~mmkdml.datasets.lgg_rows`.
        images: Folder of images below ``source``, only for ``'folders'``, as the next three.
        masks: Folder of masks below ``source``.
        mask_suffix: Suffix of the masks' names.
        group_regex: Regular expression that finds the group in an image's path below ``source``.
        name: Name of the class. Default: ``object``, ``lesion`` or ``tumour``, by layout.
        min_area: Smallest number of pixels of a component, at least 1; smaller ones are counted in
            a warning.
        masks_drawn_on: ``drawn_on`` of :func:`~mmkdml.datasets.images.read_binary_mask`.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        folds: See :func:`convert_lgg`.

    Raises:
        ValueError: If an argument is invalid or does not belong to ``layout``, or no component is
            large enough.
    """
    check_choice('layout', layout, tuple(CLASSES))
    if min_area < 1:
        raise ValueError(f'Invalid min_area: expected at least 1 pixel, got {min_area}')
    only = dict(images=images, masks=masks, mask_suffix=mask_suffix, group_regex=group_regex)
    if layout != 'folders' and any(only.values()):
        raise ValueError(f'expected {", ".join(only)} only for the layout folders, got {only}')
    if layout == 'folders':
        if images is None or masks is None:
            raise ValueError(f'expected images and masks, got {images!r} and {masks!r}')
        rows = mask_pair_rows(source, images, masks, mask_suffix, group_regex, masks_drawn_on)
    elif layout == 'lgg':
        rows = lgg_rows(source, masks_drawn_on)
    else:
        rows = ham10000_rows(source, True, masks_drawn_on)
    by_class = layout == 'ham10000'
    splits = split_rows(rows, ratios, seed, by_class=by_class, classes=DIAGNOSES, folds=folds)
    found = _boxes_of(Path(source), rows, name or CLASSES[layout], min_area, masks_drawn_on)
    by_id = {row.id: row for row in found.rows}
    splits = {split: [by_id[row.id] for row in part] for split, part in splits.items()}
    info: dict[str, Any] = dict(
        dataset='mask_boxes',
        layout=layout,
        **{key: value for key, value in only.items() if value},
        min_area=min_area,
        seed=seed,
        ratios=[float(ratio) for ratio in ratios],
        **masks_info(masks_drawn_on),
    )
    write_boxes(out, splits, found, info, force)
    return splits


def _boxes_of(
    source: Path, rows: Sequence[SplitRow], name: str, min_area: int, drawn_on: str | None
) -> BoxSet:
    """Find the boxes of checked images and masks."""
    images: list[BoxImage] = []
    found: list[SplitRow] = []
    small = 0

    def check(row: SplitRow) -> tuple[tuple[int, int], list[Corners], int]:
        header = read_header(source / row.path)
        mask = read_binary_mask(source / str(row.mask), header, drawn_on)
        return (mask.shape[1], mask.shape[0]), *component_boxes(mask, min_area)

    for row, (size, corners, dropped) in Problems(source).check_each(rows, check):
        small += dropped
        boxes = tuple(Box(0, (x1, y1, x2, y2)) for x1, y1, x2, y2 in corners)
        images.append(BoxImage(len(images) + 1, row.path, size, boxes))
        labels = (name,) if boxes else ()
        found.append(replace(row, label=len(labels), labels=labels))
    total = sum(len(image.boxes) for image in images)
    if not total:
        raise ValueError(f'{source}: expected components of {min_area} pixels, got none in masks')
    if small:
        warnings.warn(
            f'{small} of {small + total} components have less than {min_area} pixels and are '
            'dropped',
            stacklevel=3,
        )
    return BoxSet(found, images, (name,))
