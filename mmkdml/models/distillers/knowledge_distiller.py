"""Distiller that computes losses and predictions from members and transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import ModuleDict, ModuleList
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkdml.models.distillers.fold_teachers import check_fold_teachers
from mmkdml.models.distillers.framework_calls import FrameworkCalls
from mmkdml.models.distillers.frozen_members import FrozenMembers, WithFrozenMembers
from mmkdml.models.distillers.members import build_members
from mmkdml.models.distillers.preprocessing import (
    build_renormalizations,
    default_preprocessor,
    normalized_channels,
    share_augments,
    used_augments,
)
from mmkdml.models.distillers.pretrained_parts import check_input_channels
from mmkdml.models.distillers.teacher_cache import TeacherCache, make_cache
from mmkdml.models.distillers.terms.advice import Change, transfer_advice
from mmkdml.models.distillers.terms.build_learned_weights import build_learned_weights
from mmkdml.models.distillers.terms.build_terms import build_transfer_terms
from mmkdml.models.distillers.terms.transfer_step import TransferStep
from mmkdml.models.distillers.terms.transfer_terms import MemberOutputs, weight_losses
from mmkdml.models.distillers.validation import (
    check_classroom,
    check_input_size,
    choose_ensemble,
    choose_students,
    reraise_as_value_error,
)
from mmkdml.models.ensembles import Ensemble
from mmkdml.models.inference_copies import InferenceCopies
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import task_of
from mmkdml.models.transfers import Transfer
from mmkdml.profiling import part
from mmkdml.registry import MODELS


@MODELS.register_module()
class KnowledgeDistiller(FrameworkCalls, WithFrozenMembers):
    """Classroom of named members that are trained by supervised losses and transfers in one run.

    Each member runs forward once per step. Its framework computes its supervised losses, and each
    transfer compares the learner's outputs with the source's, which are detached here and nowhere
    else. Frozen members run in inference and eval mode. They are not submodules: optimizers and
    checkpoints do not contain them, and copies of the classroom share them.

    Args:
        members: Config or built module by member name, all from mmpretrain or all from mmseg.
        transfers: :class:`Transfer` objects or dicts of their arguments.
        supervised_weights: Weight of the supervised losses by member name. Default: 1.
        frozen: Checkpoint file by name of each frozen member. None loads the pretrained weights
            that its config names (``init_cfg``); a built module keeps its weights. A file of
            :func:`mmkdml.models.write_fold_teachers` has several, of which each image uses one.
        students: Names of the members in the ensemble. Default: all learners, or all members if
            there are no transfers.
        reused_classifiers: Name of the frozen member by learner name whose classifier is copied
            into the learner and stays fixed (SimKD).
        ensemble: ``'max'``, ``'union'`` (segmentation), ``'mean'`` or ``'vote'``, or a function of
            probabilities and threshold as in :mod:`mmkdml.models.ensembles`; for detection
            ``'wbf'``, ``'nms'`` or ``'soft_nms'``, or a function of boxes, scores and labels as in
            :mod:`mmkdml.models.box_ensembles`. Default by task.
        input_size: (H, W) of the blank image with which transfers are validated. Default by task.
        data_preprocessor: Config or module of the preprocessor of the shared batch. Default: that
            of the first trained member that sets one. Members whose own has another mean, standard
            deviation, channel order or padding value get the batch normalized again. Batch
            augmentations are set here or in ``train_cfg`` of the trained members.
        init_cfg: See mmengine's ``BaseModule``.
        teacher_cache: :class:`TeacherCache` of frozen members, or its arguments. Default: none.
        learned_weights: Config of :class:`UncertaintyWeighting` or :class:`GradNorm`, which learn
            factors of the weights of each learner. Default: the weights are not learned.
        fuse_batch_norms: Fuse batch normalizations of frozen members, and of all members while they
            predict, into the convolutions before them. This is faster, and changes values only by
            rounding; see :class:`mmkdml.models.inference_copies.InferenceCopies`.

    Raises:
        TypeError: If the members are not all of one task.
        ValueError: If names, weights, taps, shapes or checkpoints do not fit.
        FileNotFoundError: If the checkpoint of a frozen member does not exist.
    """

    def __init__(
        self,
        members: Mapping[str, Any],
        transfers: Sequence[Transfer | Mapping[str, Any]],
        supervised_weights: Mapping[str, float] | None = None,
        frozen: Mapping[str, str | None] | None = None,
        students: Sequence[str] | None = None,
        reused_classifiers: Mapping[str, str] | None = None,
        ensemble: str | Ensemble | None = None,
        input_size: Sequence[int] | None = None,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
        teacher_cache: TeacherCache | Mapping[str, Any] | None = None,
        learned_weights: Any = None,
        fuse_batch_norms: bool = True,
    ) -> None:
        rows = check_classroom(
            members, transfers, supervised_weights, frozen, students, reused_classifiers
        )
        frozen = frozen or {}
        built = build_members(members)
        trained = {name: member for name, member in built.items() if name not in frozen}
        task = task_of(built)
        if data_preprocessor is None:
            data_preprocessor = default_preprocessor(members, built, frozen)
        with reraise_as_value_error('Invalid data_preprocessor'):
            super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        shared: Any = share_augments(self.data_preprocessor, trained, task.num_classes)
        self.data_preprocessor: Any = shared
        renormalizations = build_renormalizations(shared, members, built, frozen)
        self.renormalizations = nn.ModuleDict(renormalizations)
        self.task = task
        self.member_names = tuple(built)
        self.transfers = [task.with_loss(row) for row in rows]
        weights = supervised_weights or {}
        self.supervised_weights = {name: float(weights.get(name, 1.0)) for name in trained}
        self._copies = InferenceCopies(fuse_batch_norms)
        self._frozen = FrozenMembers(built, frozen, members, fuse_batch_norms)
        for name, source in (reused_classifiers or {}).items():
            task.reuse_classifier(trained[name], self._frozen[source])
        self.members = task.prepared(ModuleDict(trained), members)
        self.student_names = choose_students(students, built, self.transfers, task)
        self.ensemble = choose_ensemble(ensemble, task)
        self.input_size = check_input_size(input_size, task.default_input_size)
        self._build_transfers(built)
        self.learned_weights = build_learned_weights(
            learned_weights, self.transfer_terms, self.supervised_weights, built, task
        )
        self.teacher_cache = make_cache(teacher_cache, frozen)
        check_fold_teachers(
            self._frozen.of_folds,
            self.transfer_terms,
            used_augments(self.data_preprocessor),
            self.teacher_cache,
            reused_classifiers or {},
        )

    def _build_transfers(self, built: Mapping[str, nn.Module]) -> None:
        channels = normalized_channels(self.data_preprocessor)
        self.transfer_terms = build_transfer_terms(
            built, self.transfers, self.task, self.input_size, self._advice, channels
        )
        self.transfer_step = TransferStep(self.transfer_terms)
        self._taps: dict[str, set[str]] = {name: set() for name in self.member_names}
        self.transfer_modules = ModuleList()  # registers their parameters and buffers
        for term in self.transfer_terms:
            for name, tap in term.member_taps():
                self._taps[name].add(tap)
            self.transfer_modules.extend(x for x in (term.loss, term.projector) if x is not None)

    def init_weights(self) -> None:
        """Initialize the trained members after :meth:`check_frozen_weights`."""
        self.check_frozen_weights()
        check_input_channels(self.members)
        super().init_weights()

    def named_members(self) -> dict[str, nn.Module]:
        """Return all members by name, including the frozen ones."""
        members = {**self.members, **self._frozen}
        return {name: members[name] for name in self.member_names}

    def inputs_of(self, name: str, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """Return a shared batch of images (N, C, H, W) with the normalization of a member."""
        if name not in self.renormalizations:
            return inputs
        augments = used_augments(self.data_preprocessor) if self.training else ()
        return self.renormalizations[name](inputs, data_samples, augments)

    def preprocessor_of(self, name: str) -> Any:
        """Return the data preprocessor that converts images to the inputs of a member."""
        own = name in self.renormalizations
        return self.named_members()[name].data_preprocessor if own else self.data_preprocessor

    @property
    def observed_modules(self) -> dict[str, set[str]]:
        """Names of the modules whose outputs a training step records, by member."""
        own = {name: self.task.observed_modules(one) for name, one in self.named_members().items()}
        return {name: {*taps, *own[name]} for name, taps in self._taps.items()}

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Run the members in one of mmengine's three modes.

        Args:
            inputs: Preprocessed images (N, C, H, W).
            data_samples: Samples of the framework; mode ``'loss'`` needs their labels.
            mode: ``'loss'`` returns a dict of losses, ``'predict'`` a list of samples (see
                :meth:`predict`), and ``'tensor'`` a dict of logits by member.

        Raises:
            ValueError: If the mode is unknown.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return {
                name: self.task.logits(member, self.inputs_of(name, inputs, data_samples))
                for name, member in self.named_members().items()
            }
        raise ValueError(f'mode must be one of loss, predict, tensor; got {mode!r}')

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Any]:
        """Compute the weighted losses.

        Returns:
            Supervised losses by ``<member>.<key of the framework>``, and losses of transfers by
            ``<learner>.loss_from_<source>.<knowledge>``.
        """
        losses: dict[str, Any] = {}
        outputs: dict[str, MemberOutputs] = {}
        members = self.named_members()
        for name, member in members.items():
            if name in self._frozen and self.transfer_step.is_idle(name):
                continue
            with part(f'forward {name}'):
                if name in self._frozen:
                    outputs[name], log = self.forward_frozen(name, inputs, data_samples)
                    losses.update(log)
                    continue
                with TapRecorder(member, self._taps[name]) as recorder:
                    supervised, logits = self.task.training_step(
                        member, self.inputs_of(name, inputs, data_samples), data_samples
                    )
                losses.update(weight_losses(name, supervised, self.supervised_weights[name]))
            outputs[name] = MemberOutputs(logits, recorder, name)
        with part('transfers'):
            losses.update(
                self.transfer_step.losses(outputs, members, self.task, data_samples, losses)
            )
        if self.learned_weights is not None:
            losses = self.learned_weights(losses, members)
        return losses

    def forward_frozen(
        self, name: str, inputs: Tensor, data_samples: Any = None
    ) -> tuple[MemberOutputs, dict[str, Tensor]]:
        """Return the outputs of a frozen member for the shared batch, and the cache's log."""
        member = self._frozen[name]
        inputs = self.inputs_of(name, inputs, data_samples)

        def run(network: nn.Module, images: Tensor) -> MemberOutputs:
            with torch.inference_mode():
                return self._outputs(name, self._for_inference(name, network, images), images)

        if (teachers := self._frozen.of_folds.get(name)) is not None:
            taps = self._taps[name]
            return teachers.outputs(name, run, taps, inputs, data_samples), {}
        if self.teacher_cache is None:
            return run(member, inputs), {}
        terms, own = self.transfer_step.active, partial(run, member)
        return self.teacher_cache.outputs_of(name, member, terms, own, inputs)

    def _outputs(self, name: str, network: nn.Module, images: Tensor) -> MemberOutputs:
        with TapRecorder(network, self._taps[name]) as recorder:
            return MemberOutputs(self.task.logits(network, images), recorder, name)

    def _for_inference(self, name: str, network: nn.Module, images: Tensor) -> nn.Module:
        """Return the copy of a network of a member for inference."""
        if name not in self._frozen:
            return self._copies.of(network, self.task.logits, images)

        def run(network: nn.Module, images: Tensor) -> list[Tensor | None]:
            outputs = self._outputs(name, network, images)
            return [outputs.logits, *(outputs.taps[tap] for tap in sorted(self._taps[name]))]

        return self._frozen.copies.of(network, run, images)

    def predict(
        self, inputs: Tensor, data_samples: list[BaseDataElement] | None = None
    ) -> list[BaseDataElement]:
        """Predict with all members and with the ensemble of the students.

        Returns:
            Samples with the ensemble's prediction. ``sample.members`` has the predictions of all
            members by name, samples of the same type without labels.
        """
        members, names = self.named_members(), self.student_names
        predictions = {}
        for name, member in members.items():
            own = self.inputs_of(name, inputs, data_samples)
            network = self._for_inference(name, member, own)
            predictions[name] = self.task.predict(network, own, data_samples)
        students = [members[name] for name in names], [predictions[name] for name in names]
        samples = self.task.combine(*students, self.ensemble, data_samples)
        for index, sample in enumerate(samples):
            by_member = {name: batch[index] for name, batch in predictions.items()}
            sample.set_field(BaseDataElement(**by_member), 'members', field_type='data')
        return samples

    def _advice(self, fixes: Sequence[tuple[Transfer, Change]]) -> str:
        return transfer_advice(fixes)
