"""Grad-CAM (Selvaraju et al. 2017) of each member of a classroom."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmkdml.analysis.case_figure import IMAGE, SheetCell, SheetRow
from mmkdml.analysis.hard_cases import member_inputs, predict_batch
from mmkdml.evaluation.member_metrics import members_in_order
from mmkdml.evaluation.predictions import Predictions, predictions_by_name, truth_of
from mmkdml.inspection.config import inspect_model
from mmkdml.models.distillers.members import evaluating, probe_member
from mmkdml.models.tasks import Task, task_of
from mmkdml.names import PLAIN
from mmkdml.optional import require

attr = require('captum.attr', extra='analysis', purpose='Grad-CAM')

PREDICTED, TRUE = 'predicted', 'true'
RIGHT, WRONG = '\N{CHECK MARK}', '\N{BALLOT X}'
_CAPTION_WIDTH = 32
OPACITY = 0.6  # of the heat map over the image


def grad_cam(
    member: nn.Module, inputs: Tensor, classes: Tensor, layer: str | None = None
) -> Tensor:
    """Compute Grad-CAM: ``ReLU(sum_c mean(dlogit / dmap_c) * map_c)``.

    The member's mode, gradients and hooks stay unchanged.

    Args:
        member: Classifier of mmpretrain; it may be frozen. If it has one logit, class 1 is
            explained by the logit and class 0 by its negative.
        inputs: Preprocessed images (N, 3, H, W).
        classes: Class index of each image, (N,), long.
        layer: Dotted name of a module whose output is a map (N, C, h, w). Defaults to the last map
            before pooling, which is also the default tap: the output of the backbone or the neck.

    Returns:
        Maps (N, h, w), non-negative, in the unit of the logits.

    Raises:
        TypeError: If the member is not a classifier.
        ValueError: If the layer or a class does not exist, the output of the layer is not a map, or
            the head has no logits.
    """
    task = _classification_task({PLAIN: member})
    layer = layer or task.default_tap(member)
    number = task.num_classes(member)
    if not bool(((classes >= 0) & (classes < number)).all()):
        raise ValueError(
            f'Invalid classes: expected 0 to {number - 1}, got {classes.unique().tolist()}'
        )
    probed = probe_member(member, task, [layer], inputs.shape[2:])
    if probed.logits is None:
        raise ValueError(f'Grad-CAM requires logits, which {type(member.head).__name__} lacks')
    if probed.taps[layer].ndim != 4:
        raise ValueError(
            f'Invalid layer {layer}: expected an output of shape (N, C, h, w), got '
            f'{tuple(probed.taps[layer].shape)}. Choose a layer before pooling'
        )

    def scores(images: Tensor) -> Tensor:
        logits = cast(Tensor, task.logits(member, images))
        return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits

    with evaluating(member):
        # A frozen member builds a graph only if the images require gradients.
        maps = attr.LayerGradCam(scores, member.get_submodule(layer)).attribute(
            inputs.detach().requires_grad_(), classes, relu_attributions=True
        )
    last = maps[-1] if isinstance(maps, tuple) else maps
    return last.squeeze(1).detach()


def class_index(target: str, classes: Sequence[str]) -> int:
    """Return the index of a class from its name or index.

    Raises:
        ValueError: If there is no such class.
    """
    if target in classes:
        return list(classes).index(target)
    if target.isdecimal() and int(target) < len(classes):
        return int(target)
    raise ValueError(
        f'Invalid target {target!r}: expected {PREDICTED}, {TRUE}, an index from 0 to '
        f'{len(classes) - 1}, or a class among {", ".join(classes)}'
    )


def cam_rows(
    model: BaseModel, loader: DataLoader, target: str = PREDICTED, layer: str | None = None
) -> list[SheetRow]:
    """Build the sheet rows of a classification run, one for each case.

    Columns: the network's input with the true class; then the Grad-CAM of each member, teachers
    first, with its predicted class and probability. Each map is divided by its maximum.

    Args:
        model: Model with its weights, on its device.
        loader: Loader of only these cases, with their true classes.
        target: ``'predicted'`` for each member's predicted class, ``'true'``, or a class for all
            images, by name or index.
        layer: See :func:`grad_cam`.

    Raises:
        TypeError: If the members are not classifiers.
        ValueError: See :func:`grad_cam` and :func:`class_index`; if a sample has no true class.
    """
    members = members_in_order(inspect_model(model).members)
    task, dataset = _classification_task(members), cast(Any, loader.dataset)
    number = task.num_classes(next(iter(members.values())))
    classes = dataset.metainfo.get('classes') or [str(index) for index in range(number)]
    fixed = None if target in (PREDICTED, TRUE) else class_index(target, classes)
    rows: list[SheetRow] = []
    for data in loader:
        inputs, samples = predict_batch(model, data)
        predictions = [predictions_by_name(sample) for sample in samples]
        truth = torch.cat([truth_of(sample) for sample in samples])
        batch = [
            _image_cell(data['inputs'][index], classes[one]) for index, one in enumerate(truth)
        ]
        for name, member in members.items():
            labels = torch.cat([one[name].labels for one in predictions])
            wanted = labels if target == PREDICTED else truth
            wanted = wanted if fixed is None else torch.full_like(truth, fixed)
            images = member_inputs(model, name, dict(inputs=inputs, data_samples=samples))
            maps = grad_cam(member, images, wanted, layer)
            for row, cam, own, true in zip(batch, maps, predictions, truth, strict=True):
                row[name] = _cam_cell(row[IMAGE].image, cam, own[name], int(true), classes)
        rows += batch
    return rows


def cam_bar(target: str = PREDICTED) -> str:
    """Return the label of the color bar for :func:`cam_rows`."""
    explained = f'the {target} class' if target in (PREDICTED, TRUE) else f'class {target}'
    return f'Grad-CAM for {explained}\n(relative to the maximum of each map)'


def _classification_task(members: Mapping[str, nn.Module]) -> Task:
    task = task_of(members)
    if task.name != 'classification':
        raise TypeError(f'Grad-CAM requires members for classification, got {task.name}')
    return task


def _image_cell(inputs: Tensor, true: str) -> dict[str, SheetCell]:
    """Build the cell of an image (3, H, W) BGR, or (1, H, W) gray, as the pipeline packed it."""
    image = inputs.clamp(0, 255).byte().flip(0).permute(1, 2, 0).cpu().numpy()
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    return {IMAGE: SheetCell(image, caption=textwrap.fill(f'true: {true}', _CAPTION_WIDTH))}


def _cam_cell(
    image: np.ndarray, cam: Tensor, prediction: Predictions, true: int, classes: Sequence[str]
) -> SheetCell:
    label = int(prediction.labels)
    sign = RIGHT if label == true else WRONG
    predicted = f'{sign} {classes[label]} {prediction.probabilities[0, label]:.2f}'
    caption = textwrap.fill(predicted, _CAPTION_WIDTH)
    if not cam.any():
        caption += '\nGrad-CAM is zero'
    cam = cam / cam.max().clamp(min=torch.finfo(cam.dtype).tiny)
    heat = F.interpolate(cam[None, None], image.shape[:2], mode='bilinear')[0, 0].cpu().numpy()
    # Image colors would interfere with the colors of the heat map.
    gray = image.mean(axis=2, keepdims=True).astype(np.uint8)
    return SheetCell(np.broadcast_to(gray, image.shape), heat, OPACITY, caption=caption)
