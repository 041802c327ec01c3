"""Mean predictions of classrooms and plain networks: over augmented views, and over folds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from mmkdml.commands import tool_command
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.ensembles import max_ensemble
from mmkdml.models.tasks import Task, task_of
from mmkdml.registry import MODELS


@MODELS.register_module()
class MemberTTA(BaseTTAModel):
    """Average the probabilities of each member over augmented views, then apply the ensemble.

    Boxes of detectors are flipped back to the original image, and those of all views are fused for
    each member by the default ensemble of detectors, weighted boxes fusion. A view must be flipped
    before it is padded, as in mmdet's configs.

    The frameworks' models (``SegTTAModel``, ``AverageClsScoreTTA``, ``DetTTAModel``) do not support
    members, and mmseg's applies the sigmoid of a single logit twice. The views are made by mmcv's
    ``TestTimeAug``; mmseg flips the predictions of flipped views back.

    Args:
        module: Config or module of a classroom, a classifier of mmpretrain, a segmentor of mmseg or
            a detector of mmdet.
        data_preprocessor: See mmengine's ``BaseTTAModel``.

    Raises:
        TypeError: While predicting, if the module is none of these.
    """

    @staticmethod
    def of(model: nn.Module, settings: Mapping[str, Any] | None = None) -> nn.Module:
        """Build the test-time augmentation of a model.

        Args:
            model: Classroom, classifier of mmpretrain, segmentor of mmseg or detector of mmdet; or
                an ensemble of them over folds.
            settings: ``tta_model`` of a config. Classes of the frameworks are replaced by this one.

        Raises:
            ValueError: If the settings have no type, or an unknown one.
        """
        if isinstance(model, FoldEnsemble):
            return FoldEnsemble([MemberTTA.of(one, settings) for one in model.models])
        if not settings:
            return MemberTTA(model)
        kind = settings.get('type')
        if isinstance(kind, str):
            # As for building: a name without scope is one of the default scope.
            with MODELS.switch_scope_and_registry(settings.get('_scope_')) as registry:
                kind = registry.get(kind)
        if kind is None:
            raise ValueError(
                'Invalid tta_model: expected the type of a known class, such as '
                f"dict(type='mmkdml.MemberTTA'), got {dict(settings)}"
            )
        if _is_stock(kind):
            return MemberTTA(model)
        return MODELS.build({**settings, 'module': model})

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[BaseDataElement]]
    ) -> list[BaseDataElement]:
        """Return one sample per image, with the fields of the module's own predictions."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[BaseDataElement]) -> BaseDataElement:
        module = self.module
        # Its ground truth is not flipped, wherever the pipeline loads it.
        merged = next((view for view in views if not view.get('flip')), views[0])
        if not isinstance(module, KnowledgeDistiller):
            return _average(task_of({'model': module}), module, views, merged)
        members = module.named_members()
        averages = {
            name: _average(module.task, member, [view.members.get(name) for view in views])
            for name, member in members.items()
        }
        module.task.combine(
            [members[name] for name in module.student_names],
            [[averages[name]] for name in module.student_names],
            module.ensemble,
            [merged],
        )
        merged.set_field(BaseDataElement(**averages), 'members', field_type='data')
        return merged


class FoldEnsemble(nn.Module):
    """Mean probabilities over equal models that were trained in the folds of a cross-validation.

    Those of each member are averaged, and those of the models' ensembles.

    Args:
        models: Classrooms, classifiers of mmpretrain or segmentors of mmseg, or test-time
            augmentations of them.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def test_step(self, data: Any) -> list[BaseDataElement]:
        """Predict a batch, as mmengine's ``test_step``; ``folds`` has the input of each model."""
        models: Any = self.models
        inputs = data.get('folds') or [data] * len(models)
        # Models write into the samples.
        pairs = zip(models, inputs, strict=True)
        batches = [model.test_step(copy.deepcopy(own)) for model, own in pairs]
        network = models[0].module if isinstance(models[0], BaseTTAModel) else models[0]
        return [_over_folds(network, folds) for folds in zip(*batches, strict=True)]


def _over_folds(network: nn.Module, folds: Sequence[BaseDataElement]) -> BaseDataElement:
    merged = type(folds[0])(metainfo=folds[0].metainfo)
    if not isinstance(network, KnowledgeDistiller):
        return _average(task_of({'model': network}), network, folds, merged)
    members, task = network.named_members(), network.task
    averages = {
        name: _average(task, member, [sample.members.get(name) for sample in folds])
        for name, member in members.items()
    }
    # The scores of ensembles are not logits.
    student = members[network.student_names[0]]
    if 'seg_logits' in folds[0]:
        mean = torch.stack([sample.seg_logits.data for sample in folds]).mean(dim=0)
        _set_mean(task, student, mean, merged)
        merged.seg_logits = PixelData(data=mean)
    else:
        _set_score(task, student, [sample.pred_score for sample in folds], merged)
    merged.set_field(BaseDataElement(**averages), 'members', field_type='data')
    return merged


def _is_stock(kind: Any) -> bool:
    return getattr(kind, '__module__', '').partition('.')[0] in ('mmpretrain', 'mmseg', 'mmdet')


def _refuse_stock(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
    """Refuse a classroom in a class of the frameworks, which would not average its members."""
    if (
        isinstance(submodule, KnowledgeDistiller)
        and isinstance(module, BaseTTAModel)
        and _is_stock(type(module))
    ):
        raise TypeError(
            f'Invalid tta_model for {type(submodule).__name__}: expected mmkdml.MemberTTA, got '
            f'{type(module).__name__}, which averages the predictions of one network only. Set '
            f"tta_model=dict(type='mmkdml.MemberTTA'), or use {tool_command('test')} --tta"
        )


register_module_module_registration_hook(_refuse_stock)


def _average(
    task: Task,
    member: nn.Module,
    views: Sequence[BaseDataElement],
    into: BaseDataElement | None = None,
) -> BaseDataElement:
    """Return a sample with a member's mean probabilities and the fields of its predictions."""
    merged = type(views[0])(metainfo=views[0].metainfo) if into is None else into
    if 'pred_instances' in views[0]:
        fuse = task.ensembles[task.default_ensemble]
        own = [[_flipped_back(view)] for view in views]
        return task.combine([member] * len(views), own, fuse, [merged])[0]
    # An ensemble of one member converts the predictions of any head to probabilities.
    single = [task.combine([member], [[view]], max_ensemble, None)[0] for view in views]
    if 'seg_logits' not in single[0]:
        return _set_score(task, member, [sample.pred_score for sample in single], merged)
    mean = torch.stack([sample.seg_logits.data for sample in single]).mean(dim=0)
    return _set_mean(task, member, mean, merged)


def _set_score(
    task: Task, member: nn.Module, scores: Sequence[Tensor], merged: Any
) -> BaseDataElement:
    """Set the mean scores of an image, and its label."""
    merged.set_pred_score(torch.stack(list(scores)).mean(dim=0))
    return task.combine([member], [[merged]], max_ensemble, [merged])[0]


def _set_mean(task: Task, member: nn.Module, mean: Tensor, merged: Any) -> BaseDataElement:
    """Set the mean probabilities (K, H, W) of the pixels, and their labels."""
    # mmseg stores the probability of a single class, but the logits of several.
    merged.seg_logits = PixelData(data=mean if len(mean) == 1 else mean.log())
    (labeled,) = task.combine([member], [[merged]], max_ensemble, None)
    merged.pred_sem_seg = labeled.pred_sem_seg
    return merged


def _flipped_back(view: BaseDataElement) -> BaseDataElement:
    """Return a view of a detector with its boxes as in the unflipped original image."""
    if not view.get('flip'):
        return view
    direction = view.flip_direction
    height, width = view.ori_shape[:2]
    boxes = view.pred_instances.bboxes
    left, top, right, bottom = boxes.unbind(-1)
    if direction in ('horizontal', 'diagonal'):
        left, right = width - right, width - left
    if direction in ('vertical', 'diagonal'):
        top, bottom = height - bottom, height - top
    original = view.clone()
    original.pred_instances.bboxes = torch.stack([left, top, right, bottom], dim=-1)
    return original
