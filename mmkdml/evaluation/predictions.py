"""Predictions of each member, in a common form for classification and segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkdml.evaluation.member_metrics import member_views
from mmkdml.names import ENSEMBLE


class Predictions(NamedTuple):
    """Predictions of a member for one image: M is 1, or the number of pixels in segmentation.

    Attributes:
        labels: Predicted classes, (M,), long.
        probabilities: Class probabilities, (M, K), float64, with rows that sum to 1. K is 2 for
            networks with one logit.
        of_pixels: True for segmentation.
    """

    labels: Tensor
    probabilities: Tensor
    of_pixels: bool


def predictions_by_name(sample: Any) -> dict[str, Predictions]:
    """Return the predictions of each member and the ensemble, or of ``model`` for a plain network.

    Scores are normalized, because those of an ensemble (maxima over the students) may sum to more
    than 1.

    Raises:
        ValueError: If the predictions of a member belong to neither task.
    """
    return {name: _predictions(view, name) for name, view in member_views(sample).items()}


def truth_of(sample: Any) -> Tensor:
    """Return the true classes of a sample, (M,), long; raise ValueError without ground truth."""
    # All views share the ground truth.
    view = next(iter(member_views(sample).values()))
    if 'gt_sem_seg' in view:
        return view['gt_sem_seg']['data'].flatten().long()
    if 'gt_label' in view:
        return view['gt_label'].flatten().long()
    raise ValueError(
        f'expected the truth, gt_label or gt_sem_seg, in each sample, got {sorted(view)}. Load '
        'annotations in the test pipeline'
    )


def mask_of(sample: Any) -> Tensor | None:
    """Return the true mask of a sample, (H, W), or None for classification."""
    view = next(iter(member_views(sample).values()))
    return view['gt_sem_seg']['data'].squeeze(0) if 'gt_sem_seg' in view else None


def sum_by_name(results: list[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Sum the values of all samples by name, in order of occurrence."""
    sums: dict[Any, Any] = {}
    for sample in results:
        for name, counts in sample.items():
            sums[name] = sums[name] + counts if name in sums else counts
    return sums


def _predictions(view: dict, name: str) -> Predictions:
    if {'pred_sem_seg', 'seg_logits'} <= set(view):
        labels = view['pred_sem_seg']['data'].flatten()
        scores = view['seg_logits']['data'].detach().double().flatten(1).mT
        if scores.shape[1] == 1:  # mmseg applied the sigmoid
            scores = torch.cat([1 - scores, scores], dim=1)
        elif name != ENSEMBLE:  # the scores of an ensemble are probabilities
            scores = scores.softmax(dim=1)
    elif {'pred_label', 'pred_score'} <= set(view):
        labels, scores = view['pred_label'].flatten(), view['pred_score'].detach().double()[None]
    else:
        raise ValueError(
            'expected pred_sem_seg and seg_logits, or pred_label and pred_score, of each member, '
            f'got {sorted(view)} for {name}'
        )
    return Predictions(
        labels.long(), scores / scores.sum(dim=1, keepdim=True), 'pred_sem_seg' in view
    )
