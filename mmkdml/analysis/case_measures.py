"""Metrics of each image of a data set for every member of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.model import BaseModel
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from mmkdml.datasets.splits.split_row import SEPARATOR
from mmkdml.evaluation.boxes.panels import compare_boxes
from mmkdml.evaluation.boxes.samples import TrueBoxes, boxes_by_name, has_boxes, true_boxes_of
from mmkdml.evaluation.mask_panels import IGNORED
from mmkdml.evaluation.predictions import Predictions, predictions_by_name, truth_of
from mmkdml.inspection.config import inspect_model
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.distillers.members import evaluating
from mmkdml.names import MULTI_LABEL, SCORE_THRESHOLD

#: Columns that identify an image.
CASE_COLUMNS = ['id', 'group']
#: Lowest score, and lowest IoU with a true box, of a predicted box that counts.
MIN_SCORE, MIN_IOU = 0.3, 0.5


def list_cases(dataset: Any) -> pd.DataFrame:
    """List ``id`` and ``group`` of each image in the order of the data set, without loading images.

    An image without a group is a group of its own.

    Args:
        dataset: Data set with mmengine's interface.

    Raises:
        ValueError: If images have no id.
    """
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    for info in infos:
        if not {'id', 'img_id'} & set(info):  # mmdet's name is img_id
            raise ValueError(
                f'Invalid data set {type(dataset).__name__}: expected the id of each image, got '
                f'{sorted(info)}. Use a data set of mmkdml, which reads it from the split file'
            )
    ids = [str(one['id'] if 'id' in one else one['img_id']) for one in infos]
    cases = [(name, str(one.get('group') or name)) for name, one in zip(ids, infos, strict=True)]
    return pd.DataFrame(cases, columns=CASE_COLUMNS)


def predict_batch(model: BaseModel, data: Any) -> tuple[Tensor, list[Any]]:
    """Predict a batch. Return the preprocessed inputs (N, C, H, W) and the predicted samples."""
    with evaluating(model):
        batch = model.data_preprocessor(data, False)
        return batch['inputs'], model(**batch, mode='predict')


def member_inputs(model: BaseModel, name: str, batch: Mapping[str, Any]) -> Tensor:
    """Return the images of a preprocessed batch in the normalization of one member.

    Args:
        model: A classroom, or a single network, whose batch is returned unchanged.
        name: Name of the member.
        batch: Preprocessed ``inputs`` (N, C, H, W) and their ``data_samples``.
    """
    if isinstance(model, KnowledgeDistiller):
        return model.inputs_of(name, batch['inputs'], batch.get('data_samples'))
    return batch['inputs']


def measure_cases(model: BaseModel, loader: DataLoader, title: str = 'Cases') -> pd.DataFrame:
    """Compute the metrics of each image for every member.

    Only these numbers are kept in memory.

    Args:
        model: Classroom, classifier, segmentor or detector with its weights, on its device.
        loader: Unshuffled loader of a data set with ground truth.
        title: Label of the progress bar.

    Returns:
        A row for each image: ``id``, ``group`` and, for each member and the ensemble (or only for
        ``model``),

        - segmentation: ``region_px``, the number of true foreground pixels; ``<name>_IoU_percent``,
          see :func:`class_overlap`; ``disagreement_percent``, the share of pixels that
          students label differently, see :class:`~mmkdml.evaluation.diversity.Diversity`;
        - classification: the classes ``truth`` and ``<name>_label``, by name if the data set knows
          their names; ``<name>_probability_percent`` of the true class; ``disagreement_percent``,
          half the L1 distance of the students' probabilities, which ranks images more finely than
          whether their labels differ. Several classes of an image are joined by ``|``, and the
          numbers are means over all classes, each of which is present or absent;
        - detection: ``boxes``, the number of true boxes; ``smallest_px``, the area of the smallest
          one, ``nan`` without any; ``<name>_F1_percent`` of the boxes whose score is at least 0.3,
          at IoU 0.5, ``nan`` where there are neither true nor predicted ones;
          ``disagreement_percent``, the share of the boxes of two students without a partner of the
          other student.

        Disagreement is a mean over pairs of students; ``nan`` with fewer than two students.

    Raises:
        ValueError: If images have no id, a sample has no ground truth, or a prediction
            differs from it in size.
    """
    students = model.student_names if isinstance(model, KnowledgeDistiller) else ()
    cases = list_cases(loader.dataset)
    mark = {MULTI_LABEL: inspect_model(model).task.multi_label}
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
    batches = track(loader, title, console=Console(stderr=True), transient=True)
    rows = [
        _measure(sample, students, classes, mark)
        for data in batches
        for sample in predict_batch(model, data)[1]
    ]
    return pd.concat([cases, pd.DataFrame(rows)], axis=1)


def overlap(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Compute IoU and Dice of two boolean masks in percent; ``nan`` if both are empty."""
    both, total = (mask & truth).sum(), mask.sum() + truth.sum()
    if not total:
        return np.nan, np.nan
    return float(100 * both / (total - both)), float(200 * both / total)


def class_overlap(labels: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Compute IoU and Dice in percent, means over the foreground classes in labels or truth.

    Args:
        labels: Predicted class indices, 0 for the background.
        truth: True ones, of the same shape; pixels with 255 are ignored.

    Returns:
        Both values; ``nan`` without foreground.
    """
    counted = truth != IGNORED
    labels, truth = labels[counted], truth[counted]
    present = np.union1d(labels, truth)
    scores = [overlap(labels == one, truth == one) for one in present[present > 0]]
    iou, dice = np.mean(scores, axis=0) if scores else (np.nan, np.nan)
    return float(iou), float(dice)


def _measure(
    sample: Any,
    students: Sequence[str],
    classes: Sequence[str] | None = None,
    mark: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    if has_boxes(sample):
        return _measure_boxes(sample, students)
    truth = truth_of(sample, mark).cpu()
    predictions = {
        name: own._replace(labels=own.labels.cpu(), probabilities=own.probabilities.cpu())
        for name, own in predictions_by_name(sample, mark).items()
    }
    for name, own in predictions.items():
        if len(own.labels) != len(truth):
            raise ValueError(
                f'Invalid prediction of {name}: expected {len(truth)} pixels as in the true mask, '
                f'got {len(own.labels)}. Move Resize before the mask is loaded'
            )
    pairs = combinations(students, 2)
    differences = [_difference(predictions[a], predictions[b]) for a, b in pairs]
    if next(iter(predictions.values())).of_pixels:
        counted = truth != IGNORED
        region = ((truth > 0) & counted).numpy()
        numbers: dict[str, Any] = dict(region_px=int(region.sum()))
        for name, own in predictions.items():
            numbers[f'{name}_IoU_percent'] = class_overlap(own.labels.numpy(), truth.numpy())[0]
        differences = [one[counted] for one in differences]
    else:
        of_classes = next(iter(predictions.values())).of_classes
        numbers = dict(truth=_class_names(truth, classes, of_classes))
        for name, own in predictions.items():
            numbers[f'{name}_label'] = _class_names(own.labels, classes, of_classes)
            of_truth = own.probabilities.gather(1, truth[:, None]).mean()
            numbers[f'{name}_probability_percent'] = 100 * float(of_truth)
    share = torch.cat(differences).double().mean() if differences else torch.nan
    return dict(numbers, disagreement_percent=100 * float(share))


def _measure_boxes(sample: Any, students: Sequence[str]) -> dict[str, Any]:
    truth = true_boxes_of(sample)
    found = {name: one.above(SCORE_THRESHOLD) for name, one in boxes_by_name(sample).items()}
    areas = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)[~truth.ignored]
    differences = []
    for a, b in combinations(students, 2):
        other = TrueBoxes(found[b].boxes, found[b].labels, np.zeros(len(found[b].labels), bool))
        differences.append(100 - compare_boxes(found[a], other).f1)
    return dict(
        boxes=len(areas),
        smallest_px=float(areas.min()) if len(areas) else np.nan,
        **{f'{name}_F1_percent': compare_boxes(one, truth).f1 for name, one in found.items()},
        # Two students without boxes agree.
        disagreement_percent=np.nan_to_num(differences).mean() if differences else np.nan,
    )


def _class_names(
    labels: Tensor, classes: Sequence[str] | None, of_classes: bool = False
) -> str | int:
    """Return the name or index of a class, or those of all classes that are present."""
    if of_classes:
        present = labels.nonzero()[:, 0]
        return SEPARATOR.join(str(_class_names(one, classes)) for one in present)
    return classes[int(labels)] if classes else int(labels)


def _difference(a: Predictions, b: Predictions) -> Tensor:
    if a.of_pixels:
        return a.labels != b.labels
    return (a.probabilities - b.probabilities).abs().sum(dim=1) / 2
