"""Interface between a classroom and the framework of its members."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkdml.functional.regression import Classifier
from mmkdml.models.ensembles import Ensemble
from mmkdml.models.losses import FeatureMSELoss, PredictionKLLoss
from mmkdml.models.transfers import Transfer
from mmkdml.modes import FEATURES, PREDICTIONS

Losses = dict[str, Any]
Samples = list[BaseDataElement]


class Task(ABC):
    """Stateless adapter to the framework of a classroom's members."""

    name: ClassVar[str]
    member_type: ClassVar[tuple[type[nn.Module], ...]]
    #: Default (H, W) of the blank image with which a classroom validates its transfers.
    default_input_size: ClassVar[tuple[int, int]]
    default_ensemble: ClassVar[str]
    #: Supported ensembles by name; a user's own function has the same arguments and return value.
    ensembles: ClassVar[Mapping[str, Ensemble]]
    #: An image can have several classes or none: each is predicted by a sigmoid of its own.
    multi_label: ClassVar[bool] = False
    #: Class of the loss of a transfer that names none, by kind of knowledge.
    default_losses: ClassVar[Mapping[str, type[nn.Module]]] = {
        PREDICTIONS: PredictionKLLoss,
        FEATURES: FeatureMSELoss,
    }

    def accepts(self, member: nn.Module) -> bool:
        """Return whether the task supports a member."""
        return isinstance(member, self.member_type)

    def name_of(self, ensemble: Ensemble) -> str:
        """Return the name of an ensemble, or a user's function's own."""
        own = getattr(ensemble, '__name__', 'custom function')
        return next((name for name, one in self.ensembles.items() if one is ensemble), own)

    def check_prediction_loss(self, loss: nn.Module) -> None:  # noqa: B027  # most are valid
        """Raise ``ValueError`` if a loss is invalid for the logits of this task."""

    def with_loss(self, transfer: Transfer) -> Transfer:
        """Return a transfer with the task's default loss if it has none, or only settings of it."""
        loss: Any = {} if transfer.loss is None else transfer.loss
        if not isinstance(loss, Mapping) or 'type' in loss:
            return transfer
        kind = self.default_losses[transfer.knowledge]
        return dataclasses.replace(transfer, loss=dict(type=kind, **loss))

    def observed_modules(self, member: nn.Module) -> tuple[str, ...]:
        """Return the modules of a member whose outputs the task records in a training step."""
        return ()

    def prepared(self, members: nn.ModuleDict, configs: Mapping[str, Any]) -> nn.ModuleDict:
        """Adapt the trained members to being parts of a classroom, and return them.

        Args:
            members: Trained members by name.
            configs: Config or module of each member by name.
        """
        return members

    @abstractmethod
    def default_tap(self, member: nn.Module) -> str:
        """Return the dotted name of the module whose output is the shared feature map."""

    @abstractmethod
    def training_step(
        self, member: nn.Module, inputs: Tensor, samples: Samples
    ) -> tuple[Losses, Tensor | None]:
        """Compute the supervised losses and logits in one forward pass.

        Returns:
            The framework's log of losses, and logits (N, K) or (N, K, h, w); None for heads without
            logits of these shapes.
        """

    @abstractmethod
    def truth(self, samples: Samples) -> Tensor:
        """Return the labels of samples, (N,) or (N, H, W), dtype long.

        Raises:
            ValueError: If a sample has no label, or not a single one.
        """

    @abstractmethod
    def num_classes(self, member: nn.Module) -> int:
        """Return the number of classes of a member, 2 if it has one logit."""

    @abstractmethod
    def classifier(self, member: nn.Module) -> Classifier:
        """Return the classifier of pooled features, (N, C) -> (N, K), with detached parameters.

        Raises:
            ValueError: If the member has no such classifier.
        """

    @abstractmethod
    def reuse_classifier(self, learner: nn.Module, source: nn.Module) -> None:
        """Replace the learner's classifier by a fixed copy of the source's.

        Raises:
            ValueError: If one of them has no classifier of pooled features, or the two differ in
                type or size.
        """

    @abstractmethod
    def logits(self, member: nn.Module, inputs: Tensor) -> Tensor | None:
        """Compute the logits; None as in :meth:`training_step`."""

    @abstractmethod
    def predict(self, member: nn.Module, inputs: Tensor, samples: Samples | None) -> Samples:
        """Return the framework's predictions in new samples without labels."""

    @abstractmethod
    def check_students(self, students: Mapping[str, nn.Module]) -> None:
        """Raise ``ValueError`` if an ensemble of these students is not supported."""

    @abstractmethod
    def combine(
        self,
        students: Sequence[nn.Module],
        predictions: Sequence[Samples],
        ensemble: Ensemble,
        samples: Samples | None,
    ) -> Samples:
        """Set the predictions of an ensemble in samples and return them."""

    @abstractmethod
    def dummy_samples(self, number: int, input_size: Sequence[int]) -> Samples:
        """Return ``number`` samples with random labels of two classes for images (H, W)."""


def blank(samples: Samples | None) -> Samples | None:
    """Return new samples of the same type and metainfo without data."""
    return (
        None if samples is None else [type(sample)(metainfo=sample.metainfo) for sample in samples]
    )
