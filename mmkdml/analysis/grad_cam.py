"""Grad-CAM (Selvaraju et al. 2017) of each member of a classroom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmkdml.analysis.cam_layers import choose_layer
from mmkdml.analysis.case_figure import IMAGE, SheetCell, SheetRow
from mmkdml.analysis.hard_cases import member_inputs, predict_batch
from mmkdml.datasets.channels import as_picture, read_picture
from mmkdml.datasets.transforms import reversed_if_rgb
from mmkdml.evaluation.member_metrics import members_in_order
from mmkdml.evaluation.predictions import Predictions, predictions_by_name, truth_of
from mmkdml.inspection.config import inspect_model
from mmkdml.inspection.stage_names import stage_labels
from mmkdml.inspection.taps_listing import tap_rows
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.distillers.members import evaluating, probe_member
from mmkdml.models.layouts import MAP, Layout, layout_of
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import Task, task_of
from mmkdml.names import ENSEMBLE, MULTI_LABEL, PLAIN
from mmkdml.optional import require

attr = require('captum.attr', extra='analysis', purpose='Grad-CAM')

PREDICTED, TRUE = 'predicted', 'true'
RIGHT, WRONG = '\N{CHECK MARK}', '\N{BALLOT X}'
_MAX_SIDE = 512  # pixels of a drawn image


def grad_cam(
    member: nn.Module, inputs: Tensor, classes: Tensor, layer: str | None = None
) -> Tensor:
    """Compute Grad-CAM: ``ReLU(sum_c mean(dlogit / dmap_c) * map_c)``.

    The member's mode, gradients and hooks stay unchanged.

    Args:
        member: Classifier of mmpretrain; it may be frozen. If it has one logit and no multi-label
            head, class 1 is explained by the logit and class 0 by its negative.
        inputs: Preprocessed images (N, C, H, W).
        classes: Class index of each image, (N,), long.
        layer: Dotted name of a module whose output is a map (N, C, h, w), tokens of a grid, or a
            channels-last map. Default: see :func:`choose_layer`.

    Returns:
        Maps (N, h, w), non-negative, in the unit of the logits.

    Raises:
        TypeError: If the member is not a classifier.
        ValueError: If the layer or a class does not exist, the output of the layer is not a map, or
            the head has no logits.
    """
    task = _classification_task({PLAIN: member})
    layer = layer or choose_layer(member, task, inputs.shape[2:])
    number = task.num_classes(member)
    if not bool(((classes >= 0) & (classes < number)).all()):
        raise ValueError(
            f'Invalid classes: expected 0 to {number - 1}, got {classes.unique().tolist()}'
        )
    probed = probe_member(member, task, [layer], inputs.shape[2:])
    if probed.logits is None:
        head = type(getattr(member, 'head', member)).__name__
        raise ValueError(f'Grad-CAM requires logits, which {head} lacks')
    shape = tuple(probed.taps[layer].shape)
    layout = layout_of(member, layer, shape, inputs.shape[2:])
    if layout is None:
        raise ValueError(
            f'Invalid layer {layer}: expected an output of shape (N, C, h, w), or tokens of a '
            f'grid, got {shape}. Choose a layer before pooling'
        )

    def scores(images: Tensor) -> Tensor:
        logits = cast(Tensor, task.logits(member, images))
        one_logit = logits.shape[1] == 1 and not task.multi_label
        return torch.cat([-logits, logits], dim=1) if one_logit else logits

    with evaluating(member):
        if layout.kind != MAP:
            return _grad_cam_of_layout(member, scores, inputs, classes, layer, layout)
        # A frozen member builds a graph only if the images require gradients.
        maps = attr.LayerGradCam(scores, member.get_submodule(layer)).attribute(
            inputs.detach().requires_grad_(), classes, relu_attributions=True
        )
    last = maps[-1] if isinstance(maps, tuple) else maps
    return last.squeeze(1).detach()


def _grad_cam_of_layout(
    member: nn.Module,
    scores: Callable[[Tensor], Tensor],
    inputs: Tensor,
    classes: Tensor,
    layer: str,
    layout: Layout,
) -> Tensor:
    """Compute Grad-CAM of tokens or channels-last maps, which captum averages over other axes."""
    with torch.enable_grad(), TapRecorder(member, [layer]) as taps:
        chosen = scores(inputs.detach().requires_grad_()).gather(1, classes[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), taps[layer])
    weights = layout.to_map(gradient).mean(dim=(2, 3), keepdim=True)
    return (weights * layout.to_map(taps[layer].detach())).sum(dim=1).relu()


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

    Columns: the image with its true class; the Grad-CAM of each member, teachers first, with its
    predicted class and probability; then for the ensemble the mean of its students' maps for its
    class. Of multi-label networks the class with the highest score is explained, or a given class.
    Each map is divided by its maximum. The image is the original one, or the network's
    input if the pipeline crops or pads images.

    Args:
        model: Model with its weights, on its device.
        loader: Loader of only these cases, with their true classes.
        target: ``'predicted'`` for each member's predicted class, ``'true'``, or a class for all
            images, by name or index.
        layer: See :func:`grad_cam`.

    Raises:
        TypeError: If the members are not classifiers.
        ValueError: See :func:`grad_cam` and :func:`class_index`; if a sample has no true class, or
            ``target`` is ``'true'`` for multi-label networks.
    """
    members = members_in_order(inspect_model(model).members)
    task, dataset = _classification_task(members), cast(Any, loader.dataset)
    number = task.num_classes(next(iter(members.values())))
    classes = dataset.metainfo.get('classes') or [str(index) for index in range(number)]
    if task.multi_label and target == TRUE:
        raise ValueError(
            f'Invalid target {TRUE!r}: an image can have several true classes or none. Choose '
            f'{PREDICTED} (the class with the highest score), or one of {", ".join(classes)}'
        )
    mark = {MULTI_LABEL: task.multi_label}
    fixed = None if target in (PREDICTED, TRUE) else class_index(target, classes)
    students = model.student_names if isinstance(model, KnowledgeDistiller) else ()
    layers: dict[str, tuple[str, str]] = {}
    rows: list[SheetRow] = []
    for data in loader:
        inputs, samples = predict_batch(model, data)
        predictions = [predictions_by_name(sample, mark) for sample in samples]
        truth = torch.stack([truth_of(sample, mark) for sample in samples])
        # The classes to explain, by member and for the ensemble.
        wanted = {
            name: torch.stack([_explained(one[name]) for one in predictions])
            if target == PREDICTED
            else truth[:, 0]
            if fixed is None
            else torch.full_like(truth[:, 0], fixed)
            for name in predictions[0]
        }
        images = {
            name: member_inputs(model, name, dict(inputs=inputs, data_samples=samples))
            for name in members
        }
        for name in members.keys() - layers.keys():
            layers[name] = _layer(members[name], task, images[name].shape[2:], layer)
        maps = {
            name: _relative(grad_cam(member, images[name], wanted[name], layers[name][0]))
            for name, member in members.items()
        }
        if ENSEMBLE in wanted:
            maps[ENSEMBLE] = _mean_map(
                [
                    maps[name]
                    if torch.equal(wanted[name], wanted[ENSEMBLE])
                    else _relative(
                        grad_cam(members[name], images[name], wanted[ENSEMBLE], layers[name][0])
                    )
                    for name in students
                ]
            )
        cropped = _crops(dataset)
        for index, (sample, own) in enumerate(zip(samples, predictions, strict=True)):
            true = _names_of(truth[index], classes, task.multi_label)
            row = _image_cell(data['inputs'][index], {} if cropped else sample, true)
            for name, cams in maps.items():
                note = layers[name][1] if name in layers else 'mean of the students'
                image = row[IMAGE].image
                caption = _caption(own[name], truth[index], int(wanted[name][index]), classes)
                row[name] = _cam_cell(image, cams[index], caption, note)
            rows.append(row)
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


def _layer(
    member: nn.Module, task: Task, input_size: Sequence[int], layer: str | None
) -> tuple[str, str]:
    """Return the layer for Grad-CAM and its readable name."""
    size = tuple(input_size)
    layer = layer or choose_layer(member, task, size)
    rows = [row for row in tap_rows(member, task, size) if row.shape is not None]
    known = {row.name for row in rows}
    return layer, stage_labels(rows, [layer], size)[layer] if layer in known else layer


def _relative(maps: Tensor) -> Tensor:
    """Divide each map of (N, h, w) by its maximum."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def _mean_map(maps: Sequence[Tensor]) -> Tensor:
    """Return the relative mean of maps (N, h, w), in the size of the largest one."""
    size = max((one.shape[1:] for one in maps), key=lambda shape: shape.numel())
    resized = [F.interpolate(one[:, None], size, mode='bilinear')[:, 0] for one in maps]
    return _relative(torch.stack(resized).mean(dim=0))


def _crops(dataset: Any) -> bool:
    """Return whether a pipeline changes which part of the image the network sees."""
    transforms = getattr(dataset.pipeline, 'transforms', ())
    return any(
        word in type(one).__name__ for one in transforms for word in ('Crop', 'Pad', 'Flip', 'Rot')
    )


def _image_cell(inputs: Tensor, sample: Any, true: str) -> dict[str, SheetCell]:
    """Build the cell of the original image; or of the input (C, H, W), BGR if C is 3."""
    if 'img_path' in sample:
        image = read_picture(sample.img_path)
        scale = min(1, _MAX_SIDE / max(image.shape[:2]))
        if scale < 1:
            image = mmcv.imrescale(image, scale, interpolation='area')
    else:
        colors = inputs.clamp(0, 255).byte() if len(inputs) == 3 else inputs
        image = as_picture(reversed_if_rgb(colors.permute(1, 2, 0).cpu().numpy()))
    return {IMAGE: SheetCell(image, caption=f'true: {true}')}


def _explained(prediction: Predictions) -> Tensor:
    """Return the predicted class, or of several labels the one with the highest score."""
    if prediction.of_classes:
        return prediction.probabilities[:, 1].argmax()
    return prediction.labels[0]


def _names_of(truth: Tensor, classes: Sequence[str], multi_label: bool) -> str:
    if not multi_label:
        return classes[int(truth)]
    return ', '.join(classes[index] for index in truth.nonzero()[:, 0].tolist()) or 'no class'


def _caption(prediction: Predictions, truth: Tensor, explained: int, classes: Sequence[str]) -> str:
    """Return whether a prediction is right, its class and its probability in percent."""
    if prediction.of_classes:  # the explained class, which is predicted or not
        label, probability = explained, prediction.probabilities[explained, 1]
        right = bool(prediction.labels[explained] == truth[explained])
    else:
        label = int(prediction.labels)
        probability, right = prediction.probabilities[0, label], label == int(truth)
    return f'{RIGHT if right else WRONG} {classes[label]} {100 * float(probability):.0f} %'


def _cam_cell(image: np.ndarray, cam: Tensor, caption: str, subtitle: str) -> SheetCell:
    if not cam.any():
        caption += '\nGrad-CAM is zero'
    heat = F.interpolate(cam[None, None], image.shape[:2], mode='bilinear')[0, 0].cpu().numpy()
    return SheetCell(image, heat, caption=caption, subtitle=subtitle)
