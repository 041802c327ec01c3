"""Predictions of members for one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement

from mmkdml.apis.prediction.inputs import Case
from mmkdml.names import ENSEMBLE, PLAIN


@dataclass(frozen=True, eq=False)
class Answer:
    """Prediction of one member, or of the ensemble, for one image.

    Attributes:
        label: Class index of the image, an int, or of each pixel, (H, W) uint8; of a multi-label
            network the indices of its classes, a tuple; of a detector the class index of each box,
            (M,) int64.
        scores: (K,) or (K, H, W), float32; K = 1 for a single foreground probability. They are
            probabilities, except that those of a ``max`` or ``union`` ensemble are maxima over the
            students, which need not sum to 1, and those of a ``vote`` ensemble are shares of votes.
            Of a detector the score of each box, (M,), falling.
        boxes: x1, y1, x2, y2 of each box in pixels of the image, (M, 4) float32; (0, 0) is the
            upper left corner of the first pixel. None except for detectors.
    """

    label: Any
    scores: np.ndarray
    boxes: np.ndarray | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """Scores divided by their sum over the classes.

        Unchanged for K = 1, several labels and boxes.
        """
        if len(self.scores) == 1 or isinstance(self.label, tuple) or self.boxes is not None:
            return self.scores
        return self.scores / self.scores.sum(axis=0)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions of all members for one image.

    Attributes:
        case: The file, stack, volume or array that holds the image.
        index: Index of the image in the case, from 0.
        image: (H, W, 3) uint8 RGB, as loaded, before it is resized; for images with several
            channels see :func:`~mmkdml.datasets.channels.as_picture`.
        answers: Predictions by member, teachers first and ``'ensemble'`` last; a plain network is
            named ``'model'``. Masks have the size of the image.
    """

    case: Case
    index: int
    image: np.ndarray
    answers: dict[str, Answer]


def answer_of(sample: BaseDataElement, name: str, multi_label: bool = False) -> Answer:
    """Return the prediction of a member in a sample, as returned by ``predict``.

    Args:
        sample: Sample of a classroom or of a plain network.
        name: Name of the member, ``'ensemble'`` or ``'model'``.
        multi_label: Whether images can have several classes or none.
    """
    own: Any = sample if name in (ENSEMBLE, PLAIN) else sample.members.get(name)
    if 'pred_instances' in own:
        found = own.pred_instances
        order = found.scores.argsort(descending=True, stable=True)
        boxes = getattr(found.bboxes, 'tensor', found.bboxes)
        label, scores, corners = (
            one[order].cpu().numpy() for one in (found.labels, found.scores.float(), boxes.float())
        )
        return Answer(label.astype(np.int64), scores, corners.reshape(-1, 4))
    if multi_label:
        return Answer(tuple(sorted(own.pred_label.tolist())), own.pred_score.float().cpu().numpy())
    if 'pred_score' in own:
        return Answer(int(own.pred_label), own.pred_score.float().cpu().numpy())
    scores = own.seg_logits.data.float()
    if name != ENSEMBLE and len(scores) > 1:  # for one class, mmseg returns probabilities
        scores = scores.softmax(dim=0)
    return Answer(own.pred_sem_seg.data[0].byte().cpu().numpy(), scores.cpu().numpy())
