"""Sheet rows of segmentation: probabilities, masks and errors over the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mmcv
import numpy as np
from matplotlib.colors import to_rgb
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from mmkdml.analysis.case_figure import IMAGE, SheetCell, SheetRow
from mmkdml.analysis.hard_cases import class_overlap, predict_batch
from mmkdml.datasets.channels import read_picture
from mmkdml.evaluation.mask_panels import IGNORED, TRUTH
from mmkdml.evaluation.predictions import predictions_by_name, truth_of
from mmkdml.figures.style import ORANGE, PURPLE, SKY
from mmkdml.names import ENSEMBLE

DIFFERENCE = 'difference'
FOREGROUND_BAR = 'probability of the foreground'
HIT, FALSE_ALARM, MISS = 'true positive', 'false positive', 'false negative'
CONFUSED = 'wrong class'
DIFFERENCE_COLORS = {HIT: '#ffffff', FALSE_ALARM: ORANGE, MISS: SKY}


def mask_rows(model: BaseModel, loader: DataLoader) -> list[SheetRow]:
    """Build the sheet rows of a segmentation run, one for each case.

    Columns: the image, with the size of its true region; the true mask; for each member, teachers
    first, the foreground probability with IoU and Dice; the mask of the ensemble; the difference
    of that mask (or of the single model's) from the truth. All columns show the image below, and
    predictions the outlines of both masks. Outlines and probabilities are those of all foreground
    classes together; with several, IoU and Dice are their means, and the difference shows pixels of
    a wrong class. Ignored pixels are excluded from comparisons.

    Args:
        model: Model with its weights, on its device.
        loader: Loader of only these cases, with their true masks.

    Raises:
        ValueError: If a sample has no true mask or no ``img_path``.
        FileNotFoundError: If an image no longer exists.
    """
    return [_mask_row(sample) for data in loader for sample in predict_batch(model, data)[1]]


def _mask_row(sample: Any) -> SheetRow:
    if 'img_path' not in sample:
        raise ValueError(
            f'Invalid sample: expected img_path in its metainfo, got {sorted(sample.all_keys())}. '
            "Add img_path to meta_keys of the pipeline's Pack transform"
        )
    truth = truth_of(sample).cpu().numpy()
    shape = sample.gt_sem_seg.shape
    counted = truth != IGNORED
    region = (truth > 0) & counted
    image = mmcv.imresize(read_picture(sample.img_path), (shape[1], shape[0]))
    outline = region.reshape(shape)
    row = {
        IMAGE: SheetCell(image, caption=f'region: {region.sum():,} px'),
        TRUTH: SheetCell(image, outline=outline),
    }
    for name, prediction in predictions_by_name(sample).items():
        mask = (prediction.labels > 0).cpu().numpy()
        labels = prediction.labels.cpu().numpy()
        several = prediction.probabilities.shape[1] > 2
        iou, dice = class_overlap(labels, truth)
        caption = f'{"mean " * several}IoU {iou:.1f} %, Dice {dice:.1f} %'
        caption = 'both empty' if np.isnan(iou) else caption
        if not mask.any() and region.any():
            caption = 'nothing found, IoU 0.0 %'
        heat = None
        if name != ENSEMBLE:  # its scores need not be probabilities
            heat = (1 - prediction.probabilities[:, 0]).float().cpu().numpy().reshape(shape)
        row[name] = SheetCell(image, heat, outline, mask.reshape(shape), caption)
    # The last prediction is that of the ensemble or of a single model.
    colors = {**DIFFERENCE_COLORS, **({CONFUSED: PURPLE} if several else {})}
    parts = {
        HIT: region & (labels == truth),
        FALSE_ALARM: mask & ~region & counted,
        MISS: region & ~mask,
        CONFUSED: region & mask & (labels != truth),
    }
    difference = _color_parts(image, {kind: parts[kind] for kind in colors}, colors)
    row[DIFFERENCE] = SheetCell(difference, caption=caption, legend=colors)
    return row


def _color_parts(
    image: np.ndarray, parts: Mapping[str, np.ndarray], colors: Mapping[str, str]
) -> np.ndarray:
    """Convert an image to dark gray and color each part, a mask of H * W pixels."""
    colored = np.repeat(image.mean(axis=2, keepdims=True) * 0.45, 3, axis=2)
    for kind, part in parts.items():
        colored[part.reshape(image.shape[:2])] = 255 * np.array(to_rgb(colors[kind]))
    return colored.astype(np.uint8)
