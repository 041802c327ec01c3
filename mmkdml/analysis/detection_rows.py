"""Sheet rows of detection: boxes of the members over the image."""

from __future__ import annotations

from functools import partial
from typing import Any

import mmcv
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from mmkdml.analysis.case_figure import SheetCell, SheetRow
from mmkdml.analysis.hard_cases import predict_batch
from mmkdml.datasets.channels import read_picture
from mmkdml.evaluation.boxes.panels import (
    compare_boxes,
    count_true_boxes,
    draw_boxes,
    legend_of_boxes,
)
from mmkdml.evaluation.boxes.samples import boxes_by_name, true_boxes_of
from mmkdml.evaluation.mask_panels import TRUTH
from mmkdml.names import SCORE_THRESHOLD


def box_rows(model: BaseModel, loader: DataLoader) -> list[SheetRow]:
    """Build the sheet rows of a detection run, one for each case.

    Columns: the image with the true boxes; for each member, teachers first, and for the ensemble
    the boxes whose score is at least 0.3, compared with the true ones as in
    :func:`~mmkdml.evaluation.boxes.panels.draw_box_sheet`.

    Args:
        model: Model with its weights, on its device.
        loader: Loader of only these cases, with their true boxes.

    Raises:
        ValueError: If a sample has no true boxes.
        FileNotFoundError: If an image no longer exists.
    """
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes') or ()
    return [_row(sample, classes) for data in loader for sample in predict_batch(model, data)[1]]


def _row(sample: Any, classes: tuple[str, ...]) -> SheetRow:
    truth = true_boxes_of(sample)
    height, width = sample.ori_shape[:2]
    image = mmcv.imresize(read_picture(sample.img_path), (width, height))
    legend = {str(one.get_label()): one for one in legend_of_boxes([truth], classes)}
    draw = partial(draw_boxes, boxes=None, truth=truth)
    row = {TRUTH: SheetCell(image, caption=count_true_boxes(truth), draw=draw, legend=legend)}
    for name, found in boxes_by_name(sample).items():
        boxes = found.above(SCORE_THRESHOLD)
        draw = partial(draw_boxes, boxes=boxes, truth=truth)
        row[name] = SheetCell(image, caption=str(compare_boxes(boxes, truth)), draw=draw)
    return row
