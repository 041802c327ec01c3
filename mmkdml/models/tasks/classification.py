"""Members from mmpretrain: image classifiers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import ConformerHead, LinearClsHead, MultiLabelClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.func import functional_call

from mmkdml.functional.regression import Classifier
from mmkdml.models.ensembles import Ensemble
from mmkdml.models.heads import BinaryLinearClsHead
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks.base import Losses, Samples, Task, blank

HEAD = 'head'


class ClassificationTask(Task):
    """mmpretrain's ``ImageClassifier`` with any backbone, neck and single-label head."""

    name = 'classification'
    member_type = ImageClassifier
    default_input_size = (224, 224)
    default_ensemble = 'max'
    ensembles = ('max', 'mean', 'vote')
    observed_modules = (HEAD,)

    def default_tap(self, member: ImageClassifier) -> str:
        """The last convolutional map: the neck's if it has such a block, or the backbone's."""
        return getattr(member.neck, 'shared_map', 'backbone')

    def training_step(
        self, member: ImageClassifier, inputs: Tensor, samples: Samples
    ) -> tuple[Losses, Tensor | None]:
        with TapRecorder(member, [HEAD]) as taps:
            losses = member.loss(inputs, samples)
        return losses, self._logits_of(member, taps)

    def truth(self, samples: Samples) -> Tensor:
        if not all('gt_label' in sample and sample.gt_label.numel() == 1 for sample in samples):
            raise ValueError(
                'Each sample must have one label (gt_label) for a loss that needs the truth'
            )
        labels = torch.cat([sample.gt_label for sample in samples])
        if all('gt_score' in sample for sample in samples):
            scores = torch.stack([sample.gt_score for sample in samples])
            if not torch.equal(scores.gather(1, labels[:, None]), torch.ones_like(scores[:, :1])):
                raise ValueError(
                    'Invalid samples: expected one label each, got labels mixed by a batch '
                    'augmentation. A loss that needs the truth is not supported with train_cfg.'
                    'augments; leave one of them out'
                )
        return labels

    def num_classes(self, member: ImageClassifier) -> int:
        return max(getattr(member.head, 'num_classes', 2), 2)

    def classifier(self, member: ImageClassifier) -> Classifier:
        head = _linear_head(member)
        fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
        return lambda features: functional_call(head, fixed, ((features,),))

    def reuse_classifier(self, learner: ImageClassifier, source: ImageClassifier) -> None:
        own, other = _linear_head(learner), _linear_head(source)
        forms = [(type(head).__name__, head.in_channels, head.num_classes) for head in (own, other)]
        if forms[0] != forms[1]:
            raise ValueError(
                "To answer with its source's classifier, the learner must be built with a head of "
                f'the same form (type, in_channels, num_classes): its own is {forms[0]}, the '
                f"source's {forms[1]}; SimKDNeck gives it the channels"
            )
        learner.head = copy.deepcopy(other).requires_grad_(False)
        learner.head.init_cfg = None  # or the start of the training would draw it anew

    def logits(self, member: ImageClassifier, inputs: Tensor) -> Tensor | None:
        with TapRecorder(member, [HEAD]) as taps:
            member(inputs, mode='tensor')
        return self._logits_of(member, taps)

    @staticmethod
    def _logits_of(member: ImageClassifier, taps: TapRecorder) -> Tensor | None:
        if isinstance(member.head, ConformerHead):
            return None  # the logits of two branches, of which the tap would be the last
        # Heads with a forward of another kind (contrastive, multi-task) have no (N, K) logits.
        try:
            logits = taps[HEAD]
        except ValueError:
            return None
        return logits if logits.ndim == 2 else None

    def predict(self, member: ImageClassifier, inputs: Tensor, samples: Samples | None) -> Samples:
        return member.predict(inputs, blank(samples))

    def check_students(self, students: Mapping[str, nn.Module]) -> None:
        for name, student in students.items():
            if isinstance(student.head, MultiLabelClsHead):
                raise ValueError(
                    f'{name} has the multi-label head {type(student.head).__name__}; a classroom '
                    'needs one label per image (LinearClsHead, or BinaryLinearClsHead for one '
                    'logit)'
                )
        thresholds = {
            name: student.head.threshold
            for name, student in students.items()
            if isinstance(student.head, BinaryLinearClsHead)
        }
        if thresholds and (len(thresholds) < len(students) or set(thresholds.values()) != {0.5}):
            # The ensemble sees the scores of both classes, and takes the higher one.
            raise ValueError(
                'An ensemble of one-logit students needs BinaryLinearClsHead with threshold=0.5 '
                f'in all of them; got {thresholds}'
            )

    def combine(
        self,
        students: Sequence[nn.Module],
        predictions: Sequence[Samples],
        ensemble: Ensemble,
        samples: Samples | None,
    ) -> Samples:
        probabilities = torch.stack(
            [torch.stack([sample.pred_score for sample in batch]) for batch in predictions]
        )
        scores, labels = ensemble(probabilities, 0.5)
        samples = samples or [DataSample() for _ in scores]
        for sample, score, label in zip(samples, scores, labels, strict=True):
            sample.set_pred_score(score).set_pred_label(label.unsqueeze(0))
        return samples

    def dummy_samples(self, number: int, input_size: Sequence[int]) -> Samples:
        return [DataSample().set_gt_label(int(label)) for label in torch.randint(2, (number,))]


def _linear_head(member: ImageClassifier) -> LinearClsHead:
    if not isinstance(member.head, LinearClsHead):
        raise ValueError(
            'SRRL and SimKD use a linear classifier of pooled features (LinearClsHead or '
            f'BinaryLinearClsHead); the head here is {type(member.head).__name__}. Give the member '
            'such a head, or choose a method without one'
        )
    return member.head
