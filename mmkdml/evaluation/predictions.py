"""Predictions of each member, in a common form for classification and segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkdml.evaluation.boxes.samples import refuse_boxes
from mmkdml.evaluation.member_metrics import member_views
from mmkdml.names import ENSEMBLE, MULTI_LABEL


class Predictions(NamedTuple):
    """Predictions of a member for one image: M is 1, or the number of pixels in segmentation.

    If an image can have several classes, M is their number, and each of them is a prediction
    between 0 (absent) and 1 (present).

    Attributes:
        labels: Predicted classes, (M,), long.
        probabilities: Class probabilities, (M, K), float64, with rows that sum to 1. K is 2 for
            networks with one logit and for several labels.
        of_pixels: True for segmentation.
        of_classes: True for several labels.
    """

    labels: Tensor
    probabilities: Tensor
    of_pixels: bool
    of_classes: bool = False


def is_multi_label(view: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> bool:
    """Return whether an image can have several classes or none.

    Classrooms mark their predictions. Those of a plain network need a mark of the data set.

    Args:
        view: Sample as a dict, see :func:`~mmkdml.evaluation.member_metrics.member_views`.
        meta: Metainfo of the data set.

    Raises:
        ValueError: If there is no mark, but a sample without exactly one class.
    """
    refuse_boxes(view)
    if view.get(MULTI_LABEL) or (meta or {}).get(MULTI_LABEL):
        return True
    for key in ('gt_label', 'pred_label'):
        if key in view and view[key].numel() != 1:
            raise ValueError(
                f'Invalid {key}: expected one class per image, got {view[key].tolist()}. If images '
                'can have several classes or none, set metainfo=dict(multi_label=True) in the data '
                'set, or use SplitMultiLabelDataset'
            )
    return False


def multi_hot(view: Mapping[str, Any], prefix: str = 'gt') -> Tensor:
    """Return which classes an image has (``'gt'``) or is predicted to have (``'pred'``).

    Returns:
        (K,), long, of 0 and 1.
    """
    number = len(view['pred_score'])
    if prefix == 'gt' and 'gt_score' in view:
        if len(view['gt_score']) != number:
            raise ValueError(
                f'Invalid gt_score: expected the {number} classes of the predictions, got '
                f'{len(view["gt_score"])}'
            )
        return (view['gt_score'] > 0.5).long()
    labels = view[f'{prefix}_label'].flatten().long()
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < number:
        raise ValueError(
            f'Invalid {prefix}_label: expected classes in [0, {number}), got {labels.tolist()}'
        )
    return torch.zeros(number, dtype=torch.long, device=labels.device).scatter(0, labels, 1)


def predictions_by_name(
    sample: Any, meta: Mapping[str, Any] | None = None
) -> dict[str, Predictions]:
    """Return the predictions of each member and the ensemble, or of ``model`` for a plain network.

    Scores are normalized, because those of an ensemble (maxima over the students) may sum to more
    than 1.

    Args:
        sample: Sample of ``predict``.
        meta: Metainfo of the data set, see :func:`is_multi_label`.

    Raises:
        ValueError: If the predictions of a member belong to neither task.
    """
    return {name: predictions_of(view, name, meta) for name, view in member_views(sample).items()}


def truth_of(sample: Any, meta: Mapping[str, Any] | None = None) -> Tensor:
    """Return the true labels of a sample, (M,), long, as in :class:`Predictions`.

    Args:
        sample: Sample of ``predict``.
        meta: Metainfo of the data set, see :func:`is_multi_label`.

    Raises:
        ValueError: If the sample has no ground truth.
    """
    # All views share the ground truth.
    view = next(iter(member_views(sample).values()))
    refuse_boxes(view)
    if {'gt_label', 'gt_score'} & set(view) and is_multi_label(view, meta):
        return multi_hot(view)
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


def class_scores(own: Predictions, view: Mapping[str, Any]) -> Tensor:
    """Return the probability of each class of an image, (K,), float32, on the CPU.

    Args:
        own: Predictions of a classifier for the image.
        view: Sample as a dict, for the error message.

    Raises:
        ValueError: If one is not finite.
    """
    present = own.probabilities[:, 1] if own.of_classes else own.probabilities[0]
    if not present.isfinite().all():
        where = view.get('id', view.get('img_path', 'a sample without id'))
        raise ValueError(
            f'Invalid scores of {where}: expected finite numbers, got {present.tolist()}. The '
            'training has probably diverged'
        )
    return present.float().cpu()


def predictions_of(view: dict, name: str, meta: Mapping[str, Any] | None = None) -> Predictions:
    """Return the predictions of one member.

    Args:
        view: See :func:`~mmkdml.evaluation.member_metrics.member_views`.
        name: Name of the member.
        meta: Metainfo of the data set, see :func:`is_multi_label`.

    Raises:
        ValueError: If they belong to neither task.
    """
    refuse_boxes(view)
    if has_pixels(view):
        labels = view['pred_sem_seg']['data'].flatten()
        scores = view['seg_logits']['data'].detach().double().flatten(1)
        scores = class_probabilities(scores[None], name == ENSEMBLE)[0].mT
    elif {'pred_label', 'pred_score'} <= set(view) and is_multi_label(view, meta):
        present = view['pred_score'].detach().double()
        scores = torch.stack([1 - present, present], dim=1)
        return Predictions(multi_hot(view, 'pred'), scores, of_pixels=False, of_classes=True)
    elif {'pred_label', 'pred_score'} <= set(view):
        labels, scores = view['pred_label'].flatten(), view['pred_score'].detach().double()[None]
        scores = scores / scores.sum(1, keepdim=True)
    else:
        raise missing_predictions(view, name)
    return Predictions(labels.long(), scores, has_pixels(view))


def has_pixels(view: Mapping[str, Any]) -> bool:
    """Return whether the view of a member has the predictions of a segmentor."""
    return {'pred_sem_seg', 'seg_logits'} <= set(view)


def missing_predictions(view: Mapping[str, Any], name: str) -> ValueError:
    """Return the error of a member whose predictions belong to neither task."""
    return ValueError(
        'expected pred_sem_seg and seg_logits, or pred_label and pred_score, of each member, got '
        f'{sorted(view)} for {name}'
    )


def class_probabilities(scores: Tensor, of_ensemble: bool) -> Tensor:
    """Convert the ``seg_logits`` of mmseg to class probabilities.

    Args:
        scores: (N, K, M): logits; probabilities of the foreground if K is 1, because mmseg applied
            the sigmoid.
        of_ensemble: The scores of more than one class are those of an ensemble: probabilities whose
            sum may differ from 1.

    Returns:
        (N, K, M) with sums over K of 1, for K = 1 (N, 2, M).
    """
    if scores.shape[1] == 1:
        return torch.cat([1 - scores, scores], dim=1)
    if of_ensemble:
        return scores / scores.sum(1, keepdim=True)
    if scores.shape[1] == 2:
        difference = scores[:, 1] - scores[:, 0]
        if difference.sum().isfinite():  # sigmoid is faster than softmax, but hides infinity
            return torch.stack([(-difference).sigmoid(), difference.sigmoid()], dim=1)
    return scores.softmax(1)
