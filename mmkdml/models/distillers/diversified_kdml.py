"""Distiller of the paper: one teacher, two students, a mode and a style."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmkdml.models.distillers.knowledge_distiller import KnowledgeDistiller
from mmkdml.models.distillers.teacher_cache import TeacherCache
from mmkdml.models.distillers.terms.advice import Change, as_code
from mmkdml.models.distillers.validation import check_kind
from mmkdml.models.ensembles import Ensemble
from mmkdml.models.transfers import Transfer, checked_weights, transfers_for
from mmkdml.modes import FEATURES, KNOWLEDGE, PREDICTIONS, STUDENTS
from mmkdml.names import TEACHER
from mmkdml.registry import MODELS


@MODELS.register_module()
class DiversifiedKDMLDistiller(KnowledgeDistiller):
    """Knowledge distillation and mutual learning with learning styles (the paper's 12 variants).

    Mode and style determine the transfers (:func:`mmkdml.models.transfers.transfers_for`) of a
    :class:`KnowledgeDistiller`.

    In a config::

        model = dict(
            type=DiversifiedKDMLDistiller, mode='kdml', style='v3',
            teacher=resnet50, students=[resnet18, resnet18],
            weights=dict(alpha=(0.2, 0.4), beta=(0.4, 0.3), gamma=(0.4, 0.3)),
        )

    Args:
        mode: ``'ml'`` (no teacher), ``'kd_off'`` (frozen teacher), ``'kd_on'`` (teacher trained in
            the same run) or ``'kdml'`` (the same, and the students teach each other).
        style: ``'v1'`` predictions, ``'v2'`` features, ``'v3'`` mixed.
        students: Two configs or modules.
        weights: ``dict(alpha=(a1, a2), beta=(b1, b2), gamma=(g1, g2))``: weight of each student's
            supervised loss, of the transfer from the teacher and of the transfer from the peer.
        teacher: Config or module; not built in mode ``ml``.
        teacher_checkpoint: Checkpoint of a plain network or a distiller with the weights of the
            frozen teacher, or a file of :func:`mmkdml.models.write_fold_teachers`; mode ``kd_off``
            only.
        temperature: Temperature T of the predictions.
        kl_direction: ``'learner||source'`` (as printed) or ``'source||learner'`` (Hinton et al.).
        kl_scale: ``'none'`` (as printed) or ``'temperature_squared'`` (Hinton et al.).
        losses: Config of the loss by kind of knowledge that replaces the paper's, e.g.
            ``dict(features=dict(type=...))``.
        taps: Dotted name of the module of the feature map by member name, or by ``students`` for
            both. Default by task.
        projectors: Config of the projector by transfer, e.g.
            ``{'teacher->student_1': dict(...)}``, or one config for all transfers of features.
        resize: ``'source'`` or ``'learner'`` by kind of knowledge, to compare maps of different
            sizes, e.g. ``dict(predictions='source')``. See :class:`mmkdml.models.Transfer`.
        ensemble: See :class:`KnowledgeDistiller`.
        input_size: See :class:`KnowledgeDistiller`.
        data_preprocessor: See :class:`KnowledgeDistiller`.
        init_cfg: See mmengine's ``BaseModule``.
        teacher_cache: See :class:`KnowledgeDistiller`; mode ``kd_off`` only.
        weight_schedules: ``dict(beta=..., gamma=...)``: how these weights change during training, a
            schedule of :mod:`mmkdml.models.weighting` or a list of them for both students, or
            ``dict(student_1=..., student_2=...)``.
        learned_weights: See :class:`KnowledgeDistiller`.
        fuse_batch_norms: See :class:`KnowledgeDistiller`.

    Raises:
        ValueError: If mode, style, weights or another argument is invalid.
    """

    def __init__(
        self,
        mode: str,
        style: str,
        students: Sequence[Any],
        weights: Mapping[str, Sequence[float]],
        teacher: Any = None,
        teacher_checkpoint: str | None = None,
        temperature: float = 2.0,
        kl_direction: str = 'learner||source',
        kl_scale: str = 'none',
        losses: Mapping[str, Any] | None = None,
        taps: Mapping[str, str] | None = None,
        projectors: Mapping[str, Any] | None = None,
        ensemble: str | Ensemble | None = None,
        input_size: Sequence[int] | None = None,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
        teacher_cache: TeacherCache | Mapping[str, Any] | None = None,
        resize: Mapping[str, str] | None = None,
        weight_schedules: Mapping[str, Any] | None = None,
        learned_weights: Any = None,
        fuse_batch_norms: bool = True,
    ) -> None:
        transfers = transfers_for(mode, style, weights, weight_schedules)
        alphas = checked_weights(mode, weights)['alpha']
        listed = isinstance(students, Sequence) and not isinstance(students, str)
        if not listed or len(students) != len(STUDENTS):
            raise ValueError(
                f'students must be a list of {len(STUDENTS)} configs or modules, got '
                f'{len(students) if listed else 1}. Use KnowledgeDistiller for another number'
            )
        members = dict(zip(STUDENTS, students, strict=True))
        if mode != 'ml':
            if teacher is None:
                raise ValueError(f'teacher must be a config or module in mode {mode!r}; got None')
            members = {TEACHER: teacher, **members}
        if teacher_checkpoint is not None and mode != 'kd_off':
            raise ValueError(
                f'teacher_checkpoint is only for the frozen teacher of mode kd_off, got {mode!r}. '
                'Set init_cfg of the teacher to start from other weights'
            )
        kl = dict(temperature=temperature, direction=kl_direction, scale=kl_scale)
        losses = {PREDICTIONS: kl, **_checked_keys('losses', losses, KNOWLEDGE)}
        resize = _checked_keys('resize', resize, KNOWLEDGE)
        taps = _checked_keys('taps', taps, (*members, 'students'))
        check_kind(Mapping, 'a dict', projectors=projectors)
        projectors = projectors or {}
        if 'type' in projectors and not any(row.knowledge == FEATURES for row in transfers):
            print_log(
                f'projectors={dict(projectors)} has no effect: a single config is for transfers of '
                f'features, and style {style} has none. To project predictions set '
                f"projectors={{'{_route(transfers[0])}': dict(...)}}",
                logger='current',
                level=logging.WARNING,
            )
        if 'type' not in projectors:
            _checked_keys('projectors', projectors, [_route(row) for row in transfers])
        super().__init__(
            members=members,
            transfers=[_complete(row, losses, taps, projectors, resize) for row in transfers],
            supervised_weights=dict(zip(STUDENTS, alphas, strict=True)),
            frozen={TEACHER: teacher_checkpoint} if mode == 'kd_off' else None,
            students=STUDENTS,
            ensemble=ensemble,
            input_size=input_size,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
            teacher_cache=teacher_cache,
            learned_weights=learned_weights,
            fuse_batch_norms=fuse_batch_norms,
        )
        self.mode = mode
        self.style = style

    def _advice(self, fixes: Sequence[tuple[Transfer, Change]]) -> str:
        """Word advice with the complete ``projectors`` and ``taps`` to set."""
        projectors = {
            _route(row): row.projector for row in self.transfers if row.projector is not None
        }
        taps: dict[str, str] = {}
        for row, change in fixes:
            if 'projector' in change:
                projectors[_route(row)] = change['projector']
            for side in ('source', 'learner'):
                if f'{side}_tap' in change:
                    taps[getattr(row, side)] = change[f'{side}_tap']
        settings = dict(taps=taps, projectors=projectors)
        return 'Set ' + ' and '.join(
            f'{key}={as_code(value)}' for key, value in settings.items() if value
        )

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher; None in mode ``ml``."""
        return self.named_members().get(TEACHER)

    @property
    def students(self) -> nn.ModuleList:
        """The two students."""
        return nn.ModuleList([self.members[name] for name in STUDENTS])


def _complete(
    row: Transfer,
    losses: Mapping[str, Any],
    taps: Mapping[str, str],
    projectors: Mapping[str, Any],
    resize: Mapping[str, str],
) -> Transfer:
    """Return a transfer with its loss, projector, taps and resize."""
    features = row.knowledge == FEATURES
    if 'type' in projectors:  # one config, only for features, whose channels may be projected
        projector = projectors if features else None
    else:
        projector = projectors.get(_route(row)) or None
    changes: dict[str, Any] = dict(
        loss=losses.get(row.knowledge), projector=projector, resize=resize.get(row.knowledge)
    )
    if features:
        for side, name in (('source_tap', row.source), ('learner_tap', row.learner)):
            default = taps.get('students') if name in STUDENTS else None
            changes[side] = taps.get(name, default)
    return dataclasses.replace(row, **changes)


def _route(row: Transfer) -> str:
    return f'{row.source}->{row.learner}'


def _checked_keys(what: str, values: Mapping[str, Any] | None, allowed: Any) -> dict[str, Any]:
    check_kind(Mapping, 'a dict', **{what: values})
    unknown = [key for key in values or {} if key not in allowed]
    if unknown:
        raise ValueError(
            f'The keys of {what} must be some of {", ".join(allowed)}; got '
            f'{", ".join(map(str, unknown))}'
        )
    return dict(values or {})
