"""Task for the detectors of mmdet; imported only if mmdet is, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector, SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmkdml.functional.boxes import Objects
from mmkdml.functional.regression import Classifier
from mmkdml.models.box_ensembles import BOX_ENSEMBLES, BoxEnsemble
from mmkdml.models.losses import DetectionPredictionLoss
from mmkdml.models.necks.pyramid import pyramid_levels
from mmkdml.models.tasks.base import Losses, Samples, Task, blank
from mmkdml.models.tasks.dense_predictions import dense_predictions, has_dense_predictions
from mmkdml.modes import PREDICTIONS

_NO_CLASSIFIER = 'A detector has no classifier of pooled features. Use another method'


class DetectionTask(Task):
    """Detection with the networks of mmdet.

    Detectors with the dense heads of :func:`has_dense_predictions` transfer predictions and
    features, others features only: two-stage detectors predict boxes for proposals that differ
    between networks, and queries of DETR have no order that two networks share.
    """

    name = 'detection'
    member_type = (BaseDetector,)
    default_input_size = (256, 256)
    default_ensemble = 'wbf'
    ensembles = BOX_ENSEMBLES
    default_losses = {**Task.default_losses, PREDICTIONS: DetectionPredictionLoss}

    def default_tap(self, member: BaseDetector) -> str:
        """Return the finest level of the neck, or the neck or backbone."""
        if not member.with_neck:
            return 'backbone'
        return next(iter(pyramid_levels(name for name, _ in member.named_modules())), 'neck')

    def training_step(
        self, member: BaseDetector, inputs: Tensor, samples: Samples
    ) -> tuple[Losses, Tensor | None]:
        if not _has_predictions(member):
            return member.loss(inputs, samples), None
        # The steps of BaseDenseHead.loss, which does not return its outputs.
        head = member.bbox_head
        outputs = head(member.extract_feat(inputs))
        # Before the loss, because some heads change their outputs in it.
        predictions = dense_predictions(head, outputs)
        truth, ignored, metas = unpack_gt_instances(samples)
        return head.loss_by_feat(*outputs, truth, metas, ignored), predictions

    def logits(self, member: BaseDetector, inputs: Tensor) -> Tensor | None:
        """Compute the dense predictions (N, K + 4 + D, P), see :func:`dense_predictions`.

        Of other detectors, only backbone and neck run, whose features can be transferred.
        """
        features = member.extract_feat(inputs)
        if not _has_predictions(member):
            return None
        return dense_predictions(member.bbox_head, member.bbox_head(features))

    def truth(self, samples: Samples) -> list[Objects]:  # type: ignore[override]
        if not all('gt_instances' in sample for sample in samples):
            raise ValueError(
                'Invalid samples: expected boxes (gt_instances) each, which the loss needs'
            )
        return [_objects(sample) for sample in samples]

    def num_classes(self, member: Any) -> int:
        head = getattr(member, 'bbox_head', None) or getattr(
            getattr(member, 'roi_head', None), 'bbox_head', None
        )
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        return getattr(head, 'num_classes', 1)

    def classifier(self, member: nn.Module) -> Classifier:
        raise ValueError(_NO_CLASSIFIER)

    def reuse_classifier(self, learner: nn.Module, source: nn.Module) -> None:
        raise ValueError(_NO_CLASSIFIER)

    def predict(self, member: BaseDetector, inputs: Tensor, samples: Samples | None) -> Samples:
        return member.predict(inputs, blank(samples) or _blank_samples(inputs))

    def check_students(self, students: Any) -> None:
        found = {name: self.num_classes(student) for name, student in students.items()}
        if len(set(found.values())) > 1:
            raise ValueError(
                'Invalid ensemble: expected students with the same num_classes, got '
                + ', '.join(f'{name}: {number}' for name, number in found.items())
            )

    def combine(
        self,
        students: Sequence[nn.Module],
        predictions: Sequence[Samples],
        ensemble: BoxEnsemble,
        samples: Samples | None,
    ) -> Samples:
        """Set the fused boxes in ``pred_instances``; masks of instances are not fused."""
        samples = samples or [DetDataSample() for _ in predictions[0]]
        for index, sample in enumerate(samples):
            found = [batch[index].pred_instances for batch in predictions]
            boxes, scores, labels = ensemble(
                [one.bboxes for one in found],
                [one.scores for one in found],
                [one.labels for one in found],
            )
            sample.pred_instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        return samples

    def dummy_samples(self, number: int, input_size: Sequence[int]) -> Samples:
        """Return samples with two random boxes of the first class."""
        height, width = input_size
        samples = _blank_samples(torch.empty(number, 1, height, width))
        scale = torch.tensor([width, height])
        for sample in samples:
            first = torch.rand(2, 2) * 0.5
            boxes = torch.cat([first, first + 0.1 + 0.4 * torch.rand(2, 2)], 1) * scale.repeat(2)
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(2).long())
            sample.ignored_instances = InstanceData(
                bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()
            )
        return samples


def _has_predictions(member: Any) -> bool:
    """Return whether a detector has mmdet's steps of one stage, and a supported dense head."""
    kind: Any = type(member)
    return (
        isinstance(member, SingleStageDetector)
        and kind.loss is SingleStageDetector.loss
        and has_dense_predictions(member.bbox_head)
    )


def _blank_samples(inputs: Tensor) -> Samples:
    size = tuple(inputs.shape[2:])
    shapes = ('ori_shape', 'img_shape', 'pad_shape', 'batch_input_shape')
    meta = dict.fromkeys(shapes, size)
    return [DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0))) for _ in inputs]


def _objects(sample: Any) -> Objects:
    boxes = sample.gt_instances.bboxes
    height, width = sample.metainfo.get('batch_input_shape', sample.img_shape)
    size = torch.tensor([width, height, width, height])
    return Objects(boxes / size.to(boxes), sample.gt_instances.labels)
