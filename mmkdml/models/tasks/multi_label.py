"""Task for image classifiers of mmpretrain with a multi-label head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import CSRAClsHead, MultiLabelClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmkdml.models.ensembles import ProbabilityEnsemble, per_class
from mmkdml.models.tasks.base import Samples
from mmkdml.models.tasks.classification import ClassificationTask
from mmkdml.names import MULTI_LABEL


class MultiLabelTask(ClassificationTask):
    """Classification with mmpretrain's ``MultiLabelClsHead`` and its subclasses.

    An image can have several classes or none. Each class is a binary task of its own: its
    probability is the sigmoid of its logit, and it is predicted if that is at least the head's
    ``thr``.
    """

    multi_label = True

    def accepts(self, member: nn.Module) -> bool:
        """Return whether the member is a classifier with a multi-label head."""
        head = getattr(member, 'head', None)
        return isinstance(member, ImageClassifier) and isinstance(head, MultiLabelClsHead)

    def check_prediction_loss(self, loss: nn.Module) -> None:
        if not getattr(loss, 'multi_label', False):
            raise ValueError(
                f'{type(loss).__name__} does not support multi-label heads: expected a loss that '
                'compares each class on its own. Use PredictionKLLoss with multi_label=True (the '
                'default for these heads), or set the attribute multi_label = True of a loss '
                'without a softmax over the classes'
            )

    def truth(self, samples: Samples) -> Tensor:
        raise ValueError(
            'Invalid loss: it needs one class per image, but images of multi-label members can '
            'have several or none. Use a loss without labels'
        )

    def num_classes(self, member: ImageClassifier) -> int:
        head = member.head
        if isinstance(head, CSRAClsHead):
            return int(head.csra_heads[0].head.out_channels)
        if hasattr(head, 'num_classes'):
            return int(head.num_classes)
        # MultiLabelClsHead has no layers: the logits are the output of the network before it.
        layers = [one for one in member.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
        return layers[-1].weight.shape[0]

    def check_students(self, students: Mapping[str, nn.Module]) -> None:
        heads: dict[str, Any] = {name: student.head for name, student in students.items()}
        thresholds = {name: head.thr for name, head in heads.items()}
        if None in thresholds.values() or len(set(thresholds.values())) > 1:
            raise ValueError(
                'Invalid ensemble of students with multi-label heads: expected the same thr in all '
                f'heads, got {thresholds}. Set thr in the heads'
            )

    def combine(
        self,
        students: Sequence[Any],
        predictions: Sequence[Samples],
        ensemble: ProbabilityEnsemble,
        samples: Samples | None,
    ) -> Samples:
        probabilities = torch.stack(
            [torch.stack([sample.pred_score for sample in batch]) for batch in predictions]
        )
        head = students[0].head
        scores, labels = per_class(ensemble)(probabilities, 0.5 if head.thr is None else head.thr)
        samples = samples or [DataSample() for _ in scores]
        for sample, score, label in zip(samples, scores, labels, strict=True):
            # Only a network outside of a classroom may choose its top-k classes.
            chosen = label.nonzero()[:, 0] if head.thr is not None else score.topk(head.topk)[1]
            sample.set_pred_score(score).set_pred_label(chosen)
            sample.set_field(True, MULTI_LABEL, field_type='metainfo')
        return samples

    def dummy_samples(self, number: int, input_size: Sequence[int]) -> Samples:
        """Return samples without any class, or with the first one."""
        return [
            DataSample().set_gt_label([0] * int(positive))
            for positive in torch.randint(2, (number,))
        ]
