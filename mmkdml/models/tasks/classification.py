"""Task for image classifiers of mmpretrain."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models import ImageClassifier, TimmClassifier
from mmpretrain.models.heads import (
    ConformerHead,
    LinearClsHead,
    MultiLabelClsHead,
    MultiLabelLinearClsHead,
)
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.func import functional_call

from mmkdml.commands import tool_command
from mmkdml.functional.regression import Classifier
from mmkdml.models.ensembles import ProbabilityEnsemble, max_ensemble, mean_ensemble, vote_ensemble
from mmkdml.models.heads import BinaryLinearClsHead
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks.base import Losses, Samples, Task, blank

HEAD, TIMM_MODEL = 'head', 'model'


class ClassificationTask(Task):
    """Classification with mmpretrain's ``ImageClassifier`` and a single-label head, or timm."""

    name = 'classification'
    member_type = (ImageClassifier, TimmClassifier)
    default_input_size = (224, 224)
    default_ensemble = 'max'
    ensembles = {'max': max_ensemble, 'mean': mean_ensemble, 'vote': vote_ensemble}

    def observed_modules(self, member: ImageClassifier) -> tuple[str, ...]:
        return (_logits_module(member),)

    def prepared(self, members: nn.ModuleDict, configs: Mapping[str, Any]) -> nn.ModuleDict:
        members.register_state_dict_post_hook(_use_names_of_timm)
        for name, member in members.items():
            config = configs[name]
            if isinstance(member, TimmClassifier) and isinstance(config, Mapping):
                # mmengine would call init_weights of timm, which overwrites what timm has loaded.
                loaded = bool(config.get('pretrained') or config.get('checkpoint_path'))
                member.model.is_init = loaded
        return members

    def accepts(self, member: nn.Module) -> bool:
        """Return whether the member is a classifier whose head predicts one class per image."""
        head = getattr(member, 'head', None)
        return super().accepts(member) and not isinstance(head, MultiLabelClsHead)

    def default_tap(self, member: ImageClassifier) -> str:
        """Return the module of the last feature map, in the neck or the backbone.

        Raises:
            ValueError: If a network of timm does not list its stages.
        """
        if isinstance(member, TimmClassifier):
            return _last_stage(member)
        return getattr(member.neck, 'shared_map', 'backbone')

    def training_step(
        self, member: ImageClassifier, inputs: Tensor, samples: Samples
    ) -> tuple[Losses, Tensor | None]:
        with TapRecorder(member, [_logits_module(member)]) as taps:
            losses = member.loss(inputs, samples)
        return losses, self._logits_of(member, taps)

    def truth(self, samples: Samples) -> Tensor:
        if not all('gt_label' in sample and sample.gt_label.numel() == 1 for sample in samples):
            raise ValueError(
                'Invalid samples: expected one label (gt_label) each, which the loss needs'
            )
        labels = torch.cat([sample.gt_label for sample in samples])
        if all('gt_score' in sample for sample in samples):
            scores = torch.stack([sample.gt_score for sample in samples])
            if not torch.equal(scores.gather(1, labels[:, None]), torch.ones_like(scores[:, :1])):
                raise ValueError(
                    'Invalid samples: expected one label each, got labels mixed by a batch '
                    'augmentation. Remove train_cfg.augments, or use a loss without labels'
                )
        return labels

    def num_classes(self, member: ImageClassifier) -> int:
        return max(getattr(_head(member), 'num_classes', 2), 2)

    def classifier(self, member: ImageClassifier) -> Classifier:
        head = _linear_head(member)
        fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
        return lambda features: functional_call(head, fixed, ((features,),))

    def reuse_classifier(self, learner: ImageClassifier, source: ImageClassifier) -> None:
        own, other = _linear_head(learner), _linear_head(source)
        forms = [(type(head).__name__, head.in_channels, head.num_classes) for head in (own, other)]
        if forms[0] != forms[1]:
            raise ValueError(
                'Invalid reused_classifiers: expected heads of the same (type, in_channels, '
                f'num_classes), got {forms[0]} of the learner and {forms[1]} of the source. Match '
                'the channels with SimKDNeck'
            )
        learner.head = copy.deepcopy(other).requires_grad_(False)
        learner.head.init_cfg = None  # otherwise init_weights would initialize it again

    def logits(self, member: ImageClassifier, inputs: Tensor) -> Tensor | None:
        with TapRecorder(member, [_logits_module(member)]) as taps:
            member(inputs, mode='tensor')
        return self._logits_of(member, taps)

    @staticmethod
    def _logits_of(member: ImageClassifier, taps: TapRecorder) -> Tensor | None:
        if isinstance(_head(member), ConformerHead):
            return None  # logits of two branches
        # Other heads (contrastive, multi-task) have no logits (N, K).
        try:
            logits = taps[_logits_module(member)]
        except ValueError:
            return None
        return logits if logits.ndim == 2 else None

    def predict(self, member: ImageClassifier, inputs: Tensor, samples: Samples | None) -> Samples:
        return member.predict(inputs, blank(samples))

    def check_students(self, students: Mapping[str, nn.Module]) -> None:
        thresholds = {
            name: _head(student).threshold
            for name, student in students.items()
            if isinstance(_head(student), BinaryLinearClsHead)
        }
        if thresholds and (len(thresholds) < len(students) or set(thresholds.values()) != {0.5}):
            # The ensemble takes the argmax over both classes, which is a threshold of 0.5.
            raise ValueError(
                'Invalid ensemble of students with one logit: expected BinaryLinearClsHead with '
                f'threshold=0.5 in all of them, got {thresholds}'
            )

    def combine(
        self,
        students: Sequence[nn.Module],
        predictions: Sequence[Samples],
        ensemble: ProbabilityEnsemble,
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


def _linear_head(member: ImageClassifier) -> LinearClsHead | MultiLabelLinearClsHead:
    head = _head(member)
    if not isinstance(head, LinearClsHead | MultiLabelLinearClsHead):
        raise ValueError(
            'Invalid head for SRRL or SimKD: expected LinearClsHead, BinaryLinearClsHead or '
            f'MultiLabelLinearClsHead, got {type(head).__name__}. Change the head, or use another '
            'method'
        )
    return head


def _logits_module(member: nn.Module) -> str:
    return TIMM_MODEL if isinstance(member, TimmClassifier) else HEAD


def _use_names_of_timm(
    members: nn.Module, state_dict: dict[str, Tensor], prefix: str, metadata: Any
) -> None:
    """Rename the saved weights of each TimmClassifier to the names that it loads.

    It loads the names of timm, but saves them only if it is not a part of another module.
    """
    for name, member in members.named_children():
        if isinstance(member, TimmClassifier):
            own = f'{prefix}{name}.{TIMM_MODEL}.'
            for key in [key for key in state_dict if key.startswith(own)]:
                state_dict[f'{prefix}{name}.{key.removeprefix(own)}'] = state_dict.pop(key)


def _head(member: Any) -> Any:
    """Return the head of a classifier, or the complete network of timm."""
    return getattr(member, _logits_module(member))


def _last_stage(member: TimmClassifier) -> str:
    stages = getattr(member.model, 'feature_info', None)
    if not isinstance(stages, list) or not stages:
        raise ValueError(
            f'Invalid default tap of {type(member.model).__name__}: timm does not list the stages '
            'of this network. Set source_tap or learner_tap; '
            f'{tool_command("list_taps")} CONFIG lists all taps'
        )
    return f'{TIMM_MODEL}.{stages[-1]["module"]}'
