"""Batches of samples whose predictions have one shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mmkdml.evaluation.batches.sharing import shared
from mmkdml.evaluation.boxes.samples import refuse_boxes
from mmkdml.evaluation.member_metrics import member_views
from mmkdml.evaluation.predictions import (
    class_probabilities,
    has_pixels,
    is_multi_label,
    missing_predictions,
    multi_hot,
    truth_of,
)
from mmkdml.names import ENSEMBLE


class Batch:
    """Predictions of all members for N images of one size.

    Each image has M predictions: 1, the number of pixels for masks, or the number of classes if an
    image can have several, each of which is present (1) or absent (0). All tensors are on the
    device of the predictions, and shared by the metrics that process the same samples.

    Attributes:
        names: Members and ensemble, or ``model`` for a plain network.
        size: (H, W) of masks, None for classification.
        of_classes: True if an image can have several classes.
    """

    def __init__(self, views: Sequence[dict[str, dict]], meta: Mapping[str, Any] | None) -> None:
        self._views, self._meta = views, meta
        self.names = tuple(views[0])
        first = views[0][self.names[0]]
        self.size: tuple[int, int] | None = None
        if has_pixels(first):
            self.size = tuple(first['pred_sem_seg']['data'].shape[-2:])
        self.of_classes = self.size is None and is_multi_label(first, meta)

    def __len__(self) -> int:
        return len(self._views)

    def labels(self, name: str) -> Tensor:
        """Return the predicted classes of a member, (N, M), uint8 (long above 255)."""
        views = [one[name] for one in self._views]
        if self.of_classes:
            return torch.stack([multi_hot(view, 'pred') for view in views]).byte()
        if self.size is None:
            return stacked_labels([view['pred_label'] for view in views])
        return stacked_labels([view['pred_sem_seg']['data'] for view in views])

    def number_of_classes(self, name: str) -> int:
        """Return K, which is 2 for networks with one logit and for several labels."""
        view = self._views[0][name]
        if self.of_classes:
            return 2
        scores = view['pred_score'] if self.size is None else view['seg_logits']['data']
        return len(scores) if self.size is None else max(2, len(scores))

    def truth(self) -> Tensor:
        """Return the true classes, as :meth:`labels`.

        Raises:
            ValueError: If a sample has no ground truth, or its size differs from the predictions.
        """
        views = [one[self.names[0]] for one in self._views]
        if self.size is not None and all('gt_sem_seg' in view for view in views):
            maps = [view['gt_sem_seg']['data'] for view in views]
        else:
            maps = [truth_of(view, self._meta) for view in views]
        sizes = {name: self.labels(name).shape[1] for name in self.names}
        wrong = [one.numel() for one in maps if set(sizes.values()) != {one.numel()}]
        if wrong:
            raise ValueError(
                f'Invalid predictions: expected the size of the truth, {wrong[0]}, got {sizes}. '
                'Move Resize before LoadAnnotations in the pipeline'
            )
        return stacked_labels(maps).to(self.labels(self.names[0]).device)

    def probabilities(self, name: str) -> Tensor:
        """Return the class probabilities of a member, (N, K, M), with sums over K of 1.

        They are float32 for masks and float64 for classification. K is 1 for masks of networks with
        one logit: the probability of the foreground. For several labels, K is 2: absence and
        presence. Scores of an ensemble (maxima over the students) are normalized.
        """
        views = [one[name] for one in self._views]
        if self.size is not None:
            return _of_maps([one['seg_logits']['data'] for one in views], name == ENSEMBLE)
        return _of_scores([one['pred_score'] for one in views], self.of_classes)


def batches_of(samples: Sequence[Any], meta: Mapping[str, Any] | None = None) -> Iterator[Batch]:
    """Divide samples of ``predict`` into batches of one size, in the same order.

    Args:
        samples: Samples of classification or segmentation.
        meta: Metainfo of the data set, see
            :func:`~mmkdml.evaluation.predictions.is_multi_label`.

    Raises:
        ValueError: If the predictions of a member belong to neither task.
    """
    views = [member_views(sample) for sample in samples]
    for _, group in groupby(views, lambda one: _shapes(one, meta)):
        yield Batch(list(group), meta)


def _shapes(views: Mapping[str, dict], meta: Mapping[str, Any] | None) -> list[Any]:
    """Return what all samples of a batch have in common."""
    shapes: list[Any] = []
    for name, view in views.items():
        refuse_boxes(view)
        if has_pixels(view):
            own = view['pred_sem_seg']['data'].shape, view['seg_logits']['data'].shape
        elif {'pred_label', 'pred_score'} <= set(view):
            own = view['pred_score'].shape, is_multi_label(view, meta)
        else:
            raise missing_predictions(view, name)
        shapes.append((name, *own))
    return shapes


@shared
def stacked_labels(maps: Sequence[Tensor]) -> Tensor:
    """Stack the classes of N images of the same size: (N, M), uint8, or long above 255."""
    labels = torch.stack([one.flatten() for one in maps])
    if labels.dtype in (torch.uint8, torch.bool):
        return labels.byte()
    low, high = labels.aminmax()
    if low < 0 or high > 255:
        return labels.long()
    # Several times faster than directly from float.
    return (labels.int() if labels.is_floating_point() else labels).byte()


@shared
def _of_maps(maps: Sequence[Tensor], of_ensemble: bool) -> Tensor:
    scores = torch.stack([one.detach().flatten(1) for one in maps])
    # Half precision has too few digits for probabilities near 1.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores if scores.shape[1] == 1 else class_probabilities(scores, of_ensemble)


@shared
def _of_scores(scores: Sequence[Tensor], of_classes: bool) -> Tensor:
    present = torch.stack([one.detach().double() for one in scores])
    if of_classes:
        return torch.stack([1 - present, present], dim=1)
    return (present / present.sum(1, keepdim=True))[:, :, None]
