"""What each member answered, in one form for both tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkdml.evaluation.member_metrics import member_views
from mmkdml.names import ENSEMBLE


class Predictions(NamedTuple):
    """What one member said of one image: one answer, or one for each of its M pixels.

    Attributes:
        labels: The classes chosen, (M,), long.
        probabilities: Of each class, (M, K), float64, rows summing to 1. K is 2 for one logit.
        of_pixels: Whether it is a mask.
    """

    labels: Tensor
    probabilities: Tensor
    of_pixels: bool


def predictions_by_name(sample: Any) -> dict[str, Predictions]:
    """The answers of each member and the ensemble, or of a ``model`` alone.

    An ensemble's scores, the highest that any student gives, may add up to more than 1: they are
    divided by their sum.

    Args:
        sample: A data sample or its dict, as ``predict`` returned it.

    Raises:
        ValueError: If a member's prediction is of neither task.
    """
    return {name: _answers(view, name) for name, view in member_views(sample).items()}


def truth_of(sample: Any) -> Tensor:
    """The true classes of a sample, (M,), long.

    Raises:
        ValueError: If it has no truth.
    """
    # The truth is the same in every view.
    view = next(iter(member_views(sample).values()))
    if 'gt_sem_seg' in view:
        return view['gt_sem_seg']['data'].flatten().long()
    if 'gt_label' in view:
        return view['gt_label'].flatten().long()
    raise ValueError(
        f'expected the truth, gt_label or gt_sem_seg, in each sample, but it has {sorted(view)}: '
        'load annotations in the test pipeline'
    )


def summed(results: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Adds up what samples gave under each name, in the order in which names first came."""
    sums: dict[str, Any] = {}
    for sample in results:
        for name, counts in sample.items():
            sums[name] = sums[name] + counts if name in sums else counts
    return sums


def _answers(view: dict, name: str) -> Predictions:
    if {'pred_sem_seg', 'seg_logits'} <= set(view):
        labels = view['pred_sem_seg']['data'].flatten()
        scores = view['seg_logits']['data'].detach().double().flatten(1).mT
        if scores.shape[1] == 1:  # mmseg has taken the sigmoid
            scores = torch.cat([1 - scores, scores], dim=1)
        elif name != ENSEMBLE:  # an ensemble's are probabilities
            scores = scores.softmax(dim=1)
    elif {'pred_label', 'pred_score'} <= set(view):
        labels, scores = view['pred_label'].flatten(), view['pred_score'].detach().double()[None]
    else:
        raise ValueError(
            'expected pred_sem_seg and seg_logits, or pred_label and pred_score, of each member, '
            f'but {name} has {sorted(view)}'
        )
    return Predictions(
        labels.long(), scores / scores.sum(dim=1, keepdim=True), 'pred_sem_seg' in view
    )
