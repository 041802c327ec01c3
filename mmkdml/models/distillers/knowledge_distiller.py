"""Distiller that computes losses and predictions from members and transfers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel, ModuleDict, ModuleList
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkdml.models.checkpoints import resolve_checkpoint
from mmkdml.models.distillers.advice import Change, transfer_advice
from mmkdml.models.distillers.build_terms import build_transfer_terms
from mmkdml.models.distillers.frozen_members import FrozenMembers
from mmkdml.models.distillers.members import build_members
from mmkdml.models.distillers.preprocessing import (
    default_preprocessor,
    share_preprocessing,
    used_augments,
)
from mmkdml.models.distillers.teacher_cache import TeacherCache, make_cache
from mmkdml.models.distillers.transfer_terms import MemberOutputs, detach_source, weighted
from mmkdml.models.distillers.validation import (
    as_transfer,
    check_input_size,
    check_kind,
    check_names,
    check_reuse,
    check_roles,
    checked_ensemble,
    chosen_students,
    reraise_as_value_error,
)
from mmkdml.models.ensembles import Ensemble
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import task_of
from mmkdml.models.transfers import Transfer
from mmkdml.profiling import part
from mmkdml.registry import MODELS
from mmkdml.weight_checks import FROZEN_RECORD


@MODELS.register_module()
class KnowledgeDistiller(BaseModel):
    """A classroom: named members that learn from the truth and from each other in one run.

    Each member runs forward once per step. It computes its framework's own supervised loss, and
    each transfer compares what the learner showed with what its source showed; the source's side is
    detached here, and nowhere else. Frozen members run in inference mode and in eval mode as a
    whole; they are not submodules, so neither an optimiser nor a checkpoint ever holds them, and a
    copy of the classroom has the same ones.

    Args:
        members: For each member's name its config or a built module, all from mmpretrain or all
            from mmseg.
        transfers: The plan; :class:`Transfer` objects or dicts of their arguments.
        supervised_weights: Factor of a member's supervised losses, by name; 1 where not given.
        frozen: For each frozen member's name its checkpoint file, or None to load the pretrained
            weights that its config names (``init_cfg``). A built module keeps its weights.
        students: Names of the members in the ensemble. Default: all that learn in a transfer, or
            all members if there are no transfers.
        reused_classifiers: For each learner's name the frozen member with whose classifier it
            answers, a fixed copy of which replaces its own (SimKD).
        ensemble: ``'max'``, ``'union'`` (segmentation), ``'mean'``, ``'vote'``, or a function of
            probabilities and threshold as in :mod:`mmkdml.models.ensembles`. Default by task.
        input_size: (H, W) at which the members are tried at build. Default by task.
        data_preprocessor: Config or module; makes the batch that all members share. Default: that
            of the first trained member with one. A member whose own ``data_preprocessor`` has
            another mean, standard deviation or channel order gets the batch normalized so. Batch
            augmentations come from here or from the trained members' ``train_cfg``.
        init_cfg: See mmengine's ``BaseModule``.
        teacher_cache: Where the knowledge of frozen members is kept, so that they run once for each
            image; a :class:`TeacherCache` or its arguments. Default: nowhere.

    Raises:
        TypeError: If the members are not all of one task.
        ValueError: If names, weights, taps, shapes or checkpoints do not fit.
        FileNotFoundError: If a frozen member's checkpoint is not there.
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
    ) -> None:
        by_name = dict(supervised_weights=supervised_weights, frozen=frozen)
        by_name |= dict(members=members, reused_classifiers=reused_classifiers)
        check_kind(Mapping, 'a dict by name', **by_name)
        check_kind(Sequence, 'a list', transfers=transfers, students=students)
        check_names(members or {})
        built = build_members(members)
        task = task_of(built)
        shares_own = data_preprocessor is not None
        if not shares_own:
            data_preprocessor = default_preprocessor(members, built, frozen or ())
        with reraise_as_value_error('data_preprocessor cannot be built'):
            super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.data_preprocessor: Any
        self.data_preprocessor, own = share_preprocessing(
            self.data_preprocessor, shares_own, members, built, frozen or (), task.num_classes
        )
        self.renormalizations = nn.ModuleDict(own)
        self.task = task
        self.member_names = tuple(built)
        self.transfers = [as_transfer(row) for row in transfers or ()]
        frozen = {
            name: path and str(resolve_checkpoint(path)) for name, path in (frozen or {}).items()
        }
        check_roles(self.member_names, self.transfers, frozen, supervised_weights or {})
        check_reuse(reused_classifiers or {}, self.member_names, frozen)
        self.supervised_weights = {
            name: float((supervised_weights or {}).get(name, 1.0))
            for name in self.member_names
            if name not in frozen
        }
        given = [name for name, member in members.items() if isinstance(member, nn.Module)]
        self._frozen = FrozenMembers(built, frozen, given)
        for name, source in (reused_classifiers or {}).items():
            task.reuse_classifier(built[name], self._frozen[source])
        self.members = ModuleDict({name: built[name] for name in self.supervised_weights})
        self.student_names = chosen_students(students, built, self.transfers, task)
        self.ensemble = checked_ensemble(ensemble, task)
        size = task.default_input_size if input_size is None else input_size
        self.input_size = check_input_size(size)
        self.transfer_terms = build_transfer_terms(
            built, self.transfers, task, self.input_size, self._advice
        )
        self.teacher_cache = make_cache(teacher_cache, frozen)
        self._taps = {
            name: {tap for term in self.transfer_terms for who, tap in term.tapped() if who == name}
            for name in self.member_names
        }
        # Registered for their parameters and buffers, e.g. of projectors.
        modules = [module for one in self.transfer_terms for module in (one.loss, one.projector)]
        self.transfer_modules = ModuleList([one for one in modules if one is not None])

    def init_weights(self) -> None:
        """Initialize what is trained; mmengine's runner calls it when a training starts.

        Raises:
            ValueError: If a frozen member has random weights.
        """
        self.check_frozen_weights()
        super().init_weights()

    def check_frozen_weights(self) -> None:
        """Raise ``ValueError`` if a frozen member, which nothing trains, has random weights."""
        self._frozen.check_trained()

    def named_members(self) -> dict[str, nn.Module]:
        """All members by name, the frozen ones too."""
        return {
            name: self._frozen[name] if name in self._frozen else self.members[name]
            for name in self.member_names
        }

    def inputs_of(self, name: str, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """The shared batch as a member takes it: the batch itself, or normalized again.

        Args:
            name: The member's name.
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: Their samples, which know the padding.
        """
        if name not in self.renormalizations:
            return inputs
        augments = used_augments(self.data_preprocessor) if self.training else ()
        return self.renormalizations[name](inputs, data_samples, augments)

    def preprocessor_of(self, name: str) -> Any:
        """The data preprocessor that gives a member's inputs from images."""
        own = name in self.renormalizations
        return self.named_members()[name].data_preprocessor if own else self.data_preprocessor

    @property
    def observed_modules(self) -> dict[str, set[str]]:
        """For each member the names of the modules whose outputs a training step records."""
        return {name: {*taps, *self.task.observed_modules} for name, taps in self._taps.items()}

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """Names of the frozen members."""
        return tuple(self._frozen)

    @property
    def frozen_files(self) -> dict[str, str]:
        """Checkpoint files of the frozen members or of their parts, by name."""
        return self._frozen.files

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Runs in one of mmengine's three modes.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: The framework's samples; their truth is needed in mode ``'loss'``.
            mode: ``'loss'`` gives a dict of losses; ``'predict'`` the samples with the ensemble's
                answer, and every member's in their ``members``; ``'tensor'`` a dict of logits.

        Raises:
            ValueError: If the mode is another.
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
        """Supervised losses ``<member>.<framework's key>`` and ``<learner>.loss_from_<source>...``.

        All are weighted, so what is logged adds up to what is optimised.
        """
        losses: dict[str, Any] = {}
        observed: dict[str, MemberOutputs] = {}
        members = self.named_members()
        for name, member in members.items():
            with part(f'forward {name}'):
                if name in self._frozen:
                    observed[name], measures = self.observe_frozen(name, inputs, data_samples)
                    losses.update(measures)
                    continue
                with TapRecorder(member, self._taps[name]) as recorder:
                    supervised, logits = self.task.training_step(
                        member, self.inputs_of(name, inputs, data_samples), data_samples
                    )
                losses.update(weighted(name, supervised, self.supervised_weights[name]))
            observed[name] = MemberOutputs(logits, recorder, name)
        with part('transfers'):
            for term in self.transfer_terms:
                source = observed[term.transfer.source].select(term.source_tap)
                learner = observed[term.transfer.learner].select(term.learner_tap)
                given = term.given(self.task, members[term.transfer.source], data_samples)
                losses.update(term(detach_source(source), learner, *given))
        return losses

    def observe_frozen(
        self, name: str, inputs: Tensor, data_samples: Any = None
    ) -> tuple[MemberOutputs, dict[str, Tensor]]:
        """The outputs of a frozen member for the shared batch, and what its cache logs, if any."""
        member = self._frozen[name]
        inputs = self.inputs_of(name, inputs, data_samples)

        def look(images: Tensor) -> MemberOutputs:
            with TapRecorder(member, self._taps[name]) as recorder, torch.inference_mode():
                return MemberOutputs(self.task.logits(member, images), recorder, name)

        if self.teacher_cache is None:
            return look(inputs), {}
        return self.teacher_cache.observe(name, member, self.transfer_terms, look, inputs)

    def predict(
        self, inputs: Tensor, data_samples: list[BaseDataElement] | None = None
    ) -> list[BaseDataElement]:
        """The framework's samples with the ensemble's answer; ``sample.members`` has each member's.

        ``sample.members.student_1`` and so on are samples of the same type, without the truth.
        """
        members = self.named_members()
        predictions = {
            name: self.task.predict(one, self.inputs_of(name, inputs, data_samples), data_samples)
            for name, one in members.items()
        }
        samples = self.task.combine(
            [members[name] for name in self.student_names],
            [predictions[name] for name in self.student_names],
            self.ensemble,
            data_samples,
        )
        for index, sample in enumerate(samples):
            answers = {name: batch[index] for name, batch in predictions.items()}
            sample.set_field(BaseDataElement(**answers), 'members', field_type='data')
        return samples

    def train(self, mode: bool = True) -> KnowledgeDistiller:
        """Set the mode of the trained members; the frozen ones stay in eval mode."""
        super().train(mode)
        for member in self._frozen.values():
            member.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Move the frozen members to another device or dtype, too."""
        self._frozen.apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def _advice(self, fixes: Sequence[tuple[Transfer, Change]]) -> str:
        """Return advice for changing transfers."""
        return transfer_advice(fixes)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Add the record of the frozen members' files."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        record = self._frozen.record()
        if record is not None:
            destination[prefix + FROZEN_RECORD] = record

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Check that the students are resumed with the teacher they were trained with."""
        self._frozen.check_record(state_dict.pop(prefix + FROZEN_RECORD, None))
        super()._load_from_state_dict(state_dict, prefix, *args)
