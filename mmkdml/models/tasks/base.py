"""The seam between a classroom and a framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkdml.functional.regression import Classifier
from mmkdml.models.ensembles import Ensemble

Losses = dict[str, Any]
Samples = list[BaseDataElement]


class Task(ABC):
    """What a classroom needs to know of the framework its members come from.

    A task holds no state. Nothing outside of this folder knows which framework a member is from.
    """

    name: ClassVar[str]
    member_type: ClassVar[type[nn.Module]]
    #: (H, W) at which a classroom tries its members when it is built, unless told otherwise.
    default_input_size: ClassVar[tuple[int, int]]
    default_ensemble: ClassVar[str]
    #: Names of ensembles that have a meaning here.
    ensembles: ClassVar[tuple[str, ...]]
    #: Modules of a member whose outputs the task itself records in a training step.
    observed_modules: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def default_tap(self, member: nn.Module) -> str:
        """Dotted name of the module that makes the shared feature map (SPEC of the paper)."""

    @abstractmethod
    def training_step(
        self, member: nn.Module, inputs: Tensor, samples: Samples
    ) -> tuple[Losses, Tensor | None]:
        """One forward: the framework's own supervised losses, and the logits.

        Args:
            member: The network.
            inputs: Preprocessed images (N, 3, H, W).
            samples: Their truth.

        Returns:
            Losses as the framework names them, and logits (N, K) or (N, K, h, w); None if the head
            has none of that form.
        """

    @abstractmethod
    def truth(self, samples: Samples) -> Tensor:
        """The samples' classes, (N,) or (N, H, W), long.

        Raises:
            ValueError: If they have none.
        """

    @abstractmethod
    def num_classes(self, member: nn.Module) -> int:
        """How many classes the member tells apart, 2 if it has one logit."""

    @abstractmethod
    def classifier(self, member: nn.Module) -> Classifier:
        """The member's classifier, (N, C) -> (N, K), as it is now and fixed.

        Gradients flow through it, but none to it.

        Raises:
            ValueError: If it has none that takes pooled features.
        """

    @abstractmethod
    def reuse_classifier(self, learner: nn.Module, source: nn.Module) -> None:
        """Gives the learner a fixed copy of the source's classifier.

        Raises:
            ValueError: If one of them has none that takes pooled features, or they differ in form.
        """

    @abstractmethod
    def logits(self, member: nn.Module, inputs: Tensor) -> Tensor | None:
        """One forward without losses: the logits, None as in :meth:`training_step`."""

    @abstractmethod
    def predict(self, member: nn.Module, inputs: Tensor, samples: Samples | None) -> Samples:
        """The framework's own predictions, in samples of their own that carry no truth."""

    @abstractmethod
    def check_students(self, students: Mapping[str, nn.Module]) -> None:
        """Raises ``ValueError`` if an ensemble of these cannot be."""

    @abstractmethod
    def combine(
        self,
        students: Sequence[nn.Module],
        predictions: Sequence[Samples],
        ensemble: Ensemble,
        samples: Samples | None,
    ) -> Samples:
        """Writes the ensemble's answer into ``samples`` (new ones if None) and returns them.

        Args:
            students: The students.
            predictions: For each student what :meth:`predict` gave.
            ensemble: See :mod:`mmkdml.models.ensembles`.
            samples: The batch's samples.
        """

    @abstractmethod
    def dummy_samples(self, number: int, input_size: Sequence[int]) -> Samples:
        """Samples with a random truth of two classes, to try or measure a training step.

        Args:
            number: How many.
            input_size: (H, W) of their images.
        """


def blank(samples: Samples | None) -> Samples | None:
    """Samples of the same type with the same metainfo and no data."""
    return (
        None if samples is None else [type(sample)(metainfo=sample.metainfo) for sample in samples]
    )
