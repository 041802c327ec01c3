"""Predictions or counts per image and member, for statistics over cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.foreground import foreground_classes, foreground_counts
from mmkdml.evaluation.member_metrics import member_views
from mmkdml.evaluation.predictions import is_multi_label, multi_hot
from mmkdml.names import CLASSIFICATION_COLUMNS, MULTI_LABEL_COLUMNS, SEGMENTATION_COLUMNS
from mmkdml.registry import METRICS

CASE_COLUMNS = (CLASSIFICATION_COLUMNS, MULTI_LABEL_COLUMNS, SEGMENTATION_COLUMNS)


@METRICS.register_module()
class CaseTable(BaseMetric):
    """Collect a row per image and member; reports no values.

    After the evaluation :attr:`table` contains, in the main process, the columns

    - ``member, id, group, truth, pred`` (class indices) for classification;
    - ``member, id, group, label, truth, pred`` if images can have several classes, with a row per
      class ``label``, 0 to K - 1, whose ``truth`` and ``pred`` are 1 if it is present;
    - ``member, id, group, label, tp, fp, fn`` (pixel counts) for segmentation, with a row per
      foreground class ``label``, 1 to K - 1.

    Members are named as in :class:`MemberMetrics`. Metrics based on counts can be computed from the
    table for any subset of images.

    Args:
        ignore_index: Label of pixels that are ignored.
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: In ``process``, if a sample has no ``id`` or ``group`` in its metainfo, or is
            neither a classification nor a segmentation sample with ground truth.
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
                [dict(member=name, **row) for name, view in views for row in self._rows(view)]
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Set :attr:`table`, sorted by member and image; returns no values."""
        rows = pd.DataFrame([row for sample in results for row in sample])
        columns = next((c for c in CASE_COLUMNS if set(c) == set(rows)), None)
        if columns is not None:
            order = ['member', 'id', *(['label'] if 'label' in columns else [])]
            self.table = rows[list(columns)].sort_values(order, ignore_index=True)
        return {}

    def _rows(self, view: dict) -> list[dict[str, Any]]:
        missing = [key for key in ('id', 'group') if key not in view]
        if missing:
            raise ValueError(
                f'expected id and group in each sample, got {sorted(view)} without '
                f"{', '.join(missing)}. Add them to meta_keys of the pipeline's Pack transform"
            )
        case = dict(id=str(view['id']), group=str(view['group']))
        if 'pred_sem_seg' in view:
            classes = len(foreground_classes(self.dataset_meta))
            counts = foreground_counts(view, classes + 1, self.ignore_index).astype(int)
            return [
                dict(case, label=label, **dict(zip(('tp', 'fp', 'fn'), column, strict=True)))
                for label, column in enumerate(counts.T.tolist(), start=1)
            ]
        classified = 'pred_label' in view and bool({'gt_label', 'gt_score'} & set(view))
        if classified and is_multi_label(view, self.dataset_meta):
            both = zip(multi_hot(view).tolist(), multi_hot(view, 'pred').tolist(), strict=True)
            return [
                dict(case, label=label, truth=truth, pred=pred)
                for label, (truth, pred) in enumerate(both)
            ]
        if 'pred_label' in view and 'gt_label' in view:
            truth, pred = (int(view[key]) for key in ('gt_label', 'pred_label'))
            return [dict(case, truth=truth, pred=pred)]
        raise ValueError(
            f'expected pred_sem_seg, or pred_label and gt_label, in each sample, got {sorted(view)}'
        )
