"""Predictions or counts per image and member, for statistics over cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.boxes.matching import match_boxes
from mmkdml.evaluation.boxes.samples import boxes_of, has_boxes, true_boxes_of
from mmkdml.evaluation.foreground import foreground_classes, foreground_counts
from mmkdml.evaluation.member_metrics import member_views
from mmkdml.evaluation.predictions import class_scores, is_multi_label, multi_hot, predictions_of
from mmkdml.names import (
    BOX_IOUS,
    CLASSIFICATION_COLUMNS,
    DETECTION_COLUMNS,
    MULTI_LABEL_COLUMNS,
    SCORE,
    SEGMENTATION_COLUMNS,
)
from mmkdml.registry import METRICS

CASE_COLUMNS = (
    CLASSIFICATION_COLUMNS, MULTI_LABEL_COLUMNS, SEGMENTATION_COLUMNS, DETECTION_COLUMNS
)  # fmt: skip
_IOUS = np.linspace(0.5, 0.95, BOX_IOUS).tolist()  # rounded as in pycocotools
_BITS = 1 << np.arange(BOX_IOUS)[:, None]
_MAX_BOXES = 100  # per image and class, as in COCO
_MAX_SCORES = 100  # classes, to limit the size of tables


@METRICS.register_module()
class CaseTable(BaseMetric):
    """Collect the predictions of each member for each image; reports no values.

    After the evaluation :attr:`table` contains, in the main process, the columns

    - ``member, id, group, truth, pred`` (class indices) for classification, and ``score_0`` to
      ``score_<K - 1>``, the probabilities of at most 100 classes, if there are scores;
    - ``member, id, group, label, truth, pred`` if images can have several classes, with a row per
      class ``label``, 0 to K - 1, whose ``truth`` and ``pred`` are 1 if it is present, and
      ``score``, its probability;
    - ``member, id, group, label, tp, fp, fn`` (pixel counts) for segmentation, with a row per
      foreground class ``label``, 1 to K - 1; the slices of a volume, which have ``case`` and
      ``slice`` in their metainfo, are summed, and ``id`` is the case;
    - ``member, id, group, label, rank, score, hits, ignored, boxes`` for detection, with a row per
      predicted box, at most 100 per image and class ``label``, 0 to K - 1. ``rank`` numbers them
      from 1 by falling ``score``. ``hits`` and ``ignored`` are sets of the IoUs 0.50, 0.55, ...,
      0.95, as integers whose bit i is the i-th IoU: those at which the box is matched with a true
      box, or with an ignored one, see :func:`~mmkdml.evaluation.boxes.matching.match_boxes`.
      ``boxes`` is 0 there. It is the number of true boxes in a row of rank 0 for each class of an
      image with true boxes; an image without true boxes has one such row of class 0.

    Members are named as in :class:`MemberMetrics`. Metrics based on counts, and average precision,
    can be computed from the table for any subset of images.

    Args:
        ignore_index: Label of pixels that are ignored.
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: In ``process``, if a sample has no ``id`` (or ``img_id``) or ``group`` in
            its metainfo, or no ground truth and predictions of one of these tasks.
    """

    default_prefix = 'cases'  # unused, but mmengine warns without one

    def __init__(self, ignore_index: int = 255, collect_device: str = 'cpu') -> None:
        super().__init__(collect_device=collect_device)
        self.ignore_index = ignore_index
        self.table = pd.DataFrame()

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Collect the rows of N samples, as returned by ``predict``."""
        for sample in data_samples:
            views = member_views(sample).items()
            self.results.append(
                [dict(member=name, **row) for name, view in views for row in self._rows(view, name)]
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Set :attr:`table`, sorted by member and image; returns no values."""
        rows = pd.DataFrame([row for sample in results for row in sample])
        if 'slice' in rows:
            # The sampler of several processes repeats samples.
            keys = ['member', 'id', 'label']
            rows = rows.drop_duplicates([*keys, 'slice']).drop(columns='slice')
            rows = rows.groupby([*keys, 'group'], as_index=False, sort=False).sum()
        scores = [name for name in rows if str(name).startswith(SCORE)]
        columns = next((c for c in CASE_COLUMNS if set(c) | set(scores) == set(rows)), None)
        if columns is not None:
            order = ['member', 'id', *(one for one in ('label', 'rank') if one in columns)]
            names = list(dict.fromkeys([*columns, *scores]))
            self.table = rows[names].sort_values(order, ignore_index=True)
            self.table = self.table.astype(dict.fromkeys(scores, 'float32'))
        return {}

    def _rows(self, view: dict, name: str) -> list[dict[str, Any]]:
        if 'img_id' in view:  # mmdet's name
            view = dict(view, id=view.get('id', view['img_id']))
        missing = [key for key in ('id', 'group') if key not in view]
        if missing:
            raise ValueError(
                f'expected id and group in each sample, got {sorted(view)} without '
                f"{', '.join(missing)}. Add them to meta_keys of the pipeline's Pack transform"
            )
        case = dict(id=str(view['id']), group=str(view['group']))
        if has_boxes(view):
            return [dict(case, **row) for row in _box_rows(view, self.dataset_meta)]
        if 'pred_sem_seg' in view:
            if 'case' in view:
                case |= dict(id=str(view['case']), slice=view['slice'])
            classes = len(foreground_classes(self.dataset_meta))
            counts = foreground_counts([view], classes + 1, self.ignore_index)[0].astype(int)
            return [
                dict(case, label=label, **dict(zip(('tp', 'fp', 'fn'), column, strict=True)))
                for label, column in enumerate(counts.T.tolist(), start=1)
            ]
        classified = 'pred_label' in view and bool({'gt_label', 'gt_score'} & set(view))
        if classified and is_multi_label(view, self.dataset_meta):
            columns = [multi_hot(view).tolist(), multi_hot(view, 'pred').tolist()]
            names = ['truth', 'pred', *([SCORE] if 'pred_score' in view else [])]
            columns += [self._scores(view, name)] if 'pred_score' in view else []
            return [
                dict(case, label=label, **dict(zip(names, row, strict=True)))
                for label, row in enumerate(zip(*columns, strict=True))
            ]
        if 'pred_label' in view and 'gt_label' in view:
            truth, pred = (int(view[key]) for key in ('gt_label', 'pred_label'))
            scores = self._scores(view, name) if 'pred_score' in view else []
            named = {f'{SCORE}_{label}': score for label, score in enumerate(scores)}
            return [dict(case, truth=truth, pred=pred, **named)]
        raise ValueError(
            'expected pred_sem_seg, or pred_label and gt_label, or pred_instances, in each sample, '
            f'got {sorted(view)}'
        )

    def _scores(self, view: dict, name: str) -> list[float]:
        scores = class_scores(predictions_of(view, name, self.dataset_meta), view).tolist()
        return scores if len(scores) <= _MAX_SCORES else []


def _box_rows(view: dict, meta: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of an image: the number of true boxes by class, then the predicted boxes."""
    classes = len((meta or {}).get('classes') or ()) or None
    found, true = boxes_of(view, classes), true_boxes_of(view, classes)
    numbers = np.unique(true.labels[~true.ignored], return_counts=True)
    for label, number in [*zip(*(one.tolist() for one in numbers), strict=True)] or [(0, 0)]:
        yield dict(label=label, rank=0, score=0.0, hits=0, ignored=0, boxes=number)
    for label in np.unique(found.labels).tolist():
        own = np.flatnonzero(found.labels == label)
        own = own[np.argsort(-found.scores[own], kind='stable')][:_MAX_BOXES]
        chosen = type(found)(*(one[own] for one in found))
        matches = match_boxes(*chosen, true.boxes, true.labels, _IOUS, true.ignored)
        # pycocotools ignores unmatched boxes of negative area, which some detectors predict.
        inverted = (chosen.boxes[:, 2:] < chosen.boxes[:, :2]).sum(1) == 1
        ignored = np.where(matches >= 0, np.append(true.ignored, False)[matches], inverted)
        sets = ((one * _BITS).sum(0).tolist() for one in ((matches >= 0) & ~ignored, ignored))
        rows = zip(chosen.scores.tolist(), *sets, strict=True)
        for rank, (score, hits, other) in enumerate(rows, start=1):
            yield dict(label=label, rank=rank, score=score, hits=hits, ignored=other, boxes=0)
