"""Average precision of boxes, with the truth of the samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmkdml.evaluation.boxes.coco import prints_to_log, with_a_box
from mmkdml.evaluation.boxes.samples import boxes_of, true_boxes_of
from mmkdml.optional import check_extra
from mmkdml.registry import METRICS

# isort: split
check_extra('mmdet', 'pycocotools', extra='detection', purpose='BoxAP')
# isort: split
from mmdet.evaluation import CocoMetric  # noqa: E402


@METRICS.register_module()
class BoxAP(CocoMetric):
    """Average precision of boxes as in COCO, a fraction in [0, 1].

    Equals mmdet's ``CocoMetric``, with the same keys: ``coco/bbox_mAP``, the mean over classes and
    over IoU thresholds from 0.5 to 0.95, ``coco/bbox_mAP_50`` and ``coco/bbox_mAP_75`` at one
    threshold, and ``coco/bbox_mAP_s``, ``_m`` and ``_l`` of small, medium and large boxes. It
    differs in three points:

    - The truth is taken from the samples, without an annotation file: ``gt_instances``, and
      ``ignored_instances``, which are neither right nor wrong. Both are in pixels of the original
      image.
    - If nothing is found at all, the values are 0; ``CocoMetric`` reports none then.
    - A value without any true box (of that size or class) is ``nan``, not -1.

    Args:
        classwise: Also report ``coco/<class>_precision``, the mean over IoU thresholds for a class.
        **kwargs: ``proposal_nums``, ``metric_items``, ``collect_device`` and ``prefix`` of
            ``CocoMetric``.

    Raises:
        ValueError: If mmdet is not installed, or an annotation file is set; in ``process`` if a
            sample lacks a field, a label is not a class, or a true box is outside the image; in
            ``evaluate`` if two samples have the same ``img_id``.

    Example:
        >>> from mmengine.hooks import CheckpointHook
        >>> from mmkdml.evaluation import BoxAP, MemberMetrics
        >>> val_evaluator = dict(type=MemberMetrics, metric=dict(type=BoxAP))
        >>> checkpoint = dict(type=CheckpointHook, save_best='ensemble/coco/bbox_mAP')
    """

    def __init__(self, classwise: bool = False, **kwargs: Any) -> None:
        if kwargs.get('ann_file') is not None:
            raise ValueError(
                f'Invalid ann_file: BoxAP takes the truth from the samples, got '
                f'{kwargs["ann_file"]!r}. Remove it, or use CocoMetric of mmdet'
            )
        super().__init__(classwise=classwise, **kwargs)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store predictions and truth of N samples, as dicts."""
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ValueError(
                "Invalid 'classes' in the metainfo of the data set: expected names, got "
                f'{classes!r}'
            )
        for sample in data_samples:
            missing = [key for key in ('img_id', 'ori_shape') if key not in sample]
            if missing:
                raise ValueError(
                    f'expected img_id and ori_shape in each sample, got {sorted(sample)} without '
                    f'{", ".join(missing)}. Add them to meta_keys of PackDetInputs'
                )
            truth = true_boxes_of(sample, len(classes))
            boxes_of(sample, len(classes))
            instances = [
                dict(bbox=box, bbox_label=label, ignore_flag=int(ignored))
                for box, label, ignored in zip(*(one.tolist() for one in truth), strict=True)
            ]
            super().process(data_batch, [{**sample, 'instances': instances}])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the values from truth and predictions of all samples."""
        counts = Counter(truth['img_id'] for truth, _ in results)
        repeated = [key for key, number in counts.items() if number > 1]
        if repeated:
            raise ValueError(
                f'Invalid img_id: expected a different one for each sample, got {repeated[:5]} '
                'several times'
            )
        try:
            with prints_to_log():
                values = super().compute_metrics(
                    results if self.format_only else with_a_box(results)
                )
        finally:
            # CocoMetric would keep the truth for the next evaluation.
            self._coco_api = self.cat_ids = self.img_ids = None
        return {key: math.nan if value == -1 else value for key, value in values.items()}
