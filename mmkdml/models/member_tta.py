"""Test-time augmentation of a classroom, member by member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.ensembles import max_ensemble
from mmkdml.models.tasks import Task, task_of
from mmkdml.registry import MODELS


@MODELS.register_module()
class MemberTTA(BaseTTAModel):
    """Averages each member's probabilities over the views of an image, then asks the ensemble.

    The frameworks' own models for this (``SegTTAModel``, ``AverageClsScoreTTA``) know no members,
    and mmseg's applies the sigmoid of a single logit twice. It serves a plain network, too. The
    views come from mmcv's ``TestTimeAug``; mmseg turns the answers of flipped ones back.

    Args:
        module: Classroom, classifier of mmpretrain or segmentor of mmseg; its config or built.
        data_preprocessor: See mmengine's ``BaseTTAModel``.

    Raises:
        TypeError: While predicting, if the module is none of these.
    """

    def __init__(self, module: Any, data_preprocessor: Any = None) -> None:
        super().__init__(module, data_preprocessor)

    @staticmethod
    def of(model: nn.Module, settings: Mapping[str, Any] | None = None) -> BaseTTAModel:
        """What averages a model's answers.

        Args:
            model: Classroom, classifier of mmpretrain or segmentor of mmseg.
            settings: A config's ``tta_model``. The frameworks' own are replaced by this class; any
                other is built around the model.
        """
        own = MODELS.build({**settings, 'module': model}) if settings else None
        stock = type(own).__module__.partition('.')[0] in ('mmpretrain', 'mmseg')
        return MemberTTA(model) if own is None or stock else own

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[BaseDataElement]]
    ) -> list[BaseDataElement]:
        """One sample for each image, as the module itself would give it.

        Args:
            data_samples_list: For each image its samples, one for each view, as predicted.
        """
        return [self._merged(views) for views in data_samples_list]

    def _merged(self, views: Sequence[BaseDataElement]) -> BaseDataElement:
        module, whole = self.module, views[0]
        if not isinstance(module, KnowledgeDistiller):
            return _averaged(task_of({'model': module}), module, views, whole)
        members = module.named_members()
        answers = {
            name: _averaged(module.task, member, [view.members.get(name) for view in views])
            for name, member in members.items()
        }
        module.task.combine(
            [members[name] for name in module.student_names],
            [[answers[name]] for name in module.student_names],
            module.ensemble,
            [whole],
        )
        whole.set_field(BaseDataElement(**answers), 'members', field_type='data')
        return whole


def _averaged(
    task: Task,
    member: nn.Module,
    views: Sequence[BaseDataElement],
    into: BaseDataElement | None = None,
) -> BaseDataElement:
    """A member's sample with the mean of its probabilities, in the form of its own predictions."""
    merged = type(views[0])(metainfo=views[0].metainfo) if into is None else into
    # An ensemble of one gives the member's probabilities and label, whatever its head.
    alone = [task.combine([member], [[view]], max_ensemble, None)[0] for view in views]
    if 'seg_logits' not in alone[0]:
        merged.set_pred_score(torch.stack([sample.pred_score for sample in alone]).mean(dim=0))
        return task.combine([member], [[merged]], max_ensemble, [merged])[0]
    mean = torch.stack([sample.seg_logits.data for sample in alone]).mean(dim=0)
    # mmseg hands on the probability of one class, but the logits of several.
    merged.seg_logits = PixelData(data=mean if len(mean) == 1 else mean.log())
    (decided,) = task.combine([member], [[merged]], max_ensemble, None)
    merged.pred_sem_seg = decided.pred_sem_seg
    return merged
