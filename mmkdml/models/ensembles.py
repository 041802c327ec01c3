"""Ensembles of students' class probabilities.

Each function takes probabilities (S, N, K, ...) of S students and returns scores (N, K, ...) and
labels (N, ...). Scores of a maximum need not sum to 1. If K = 1, it is the probability of the
foreground, and the label is 1 above the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.vectors import full_precision

#: An ensemble of any task; the task defines what it takes and returns.
Ensemble = Callable[..., Any]
ProbabilityEnsemble = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def decide(scores: Tensor, threshold: float) -> Tensor:
    """Return labels (N, ...) for scores (N, K, ...): the argmax, or score > threshold if K = 1."""
    return (scores > threshold).squeeze(1).long() if scores.shape[1] == 1 else scores.argmax(dim=1)


def max_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Take the maximum probability of each class over the students (paper, section 3.2)."""
    scores = probabilities.amax(dim=0)
    return scores, decide(scores, threshold)


def union_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Take the union of the students' masks (paper, section 3.3).

    With one logit, or with two classes of which the first is the background, a pixel is foreground
    if it is foreground for any student. With more classes this is :func:`max_ensemble`, because
    masks of different classes can overlap.
    """
    if probabilities.shape[2] != 2:
        return max_ensemble(probabilities, threshold)
    foreground = probabilities[:, :, 1].amax(dim=0)
    scores = torch.stack([1 - foreground, foreground], dim=1)
    # Computed from the masks because 1 - foreground can round to a tie.
    return scores, probabilities.argmax(dim=2).amax(dim=0)


def mean_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Take the mean of the students' probabilities."""
    scores = probabilities.mean(dim=0)
    return scores, decide(scores, threshold)


def vote_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Take the label with the most votes, and of tied labels the one of higher mean probability.

    Scores are shares of votes.
    """
    num_students, _, num_classes = probabilities.shape[:3]
    choices = torch.stack([decide(scores, threshold) for scores in probabilities])
    mean = probabilities.mean(dim=0)
    if num_classes == 1:
        votes = choices.sum(dim=0)
        tie = 2 * votes == num_students
        labels = (2 * votes > num_students) | (tie & (mean.squeeze(1) > threshold))
        return (votes.unsqueeze(1) / num_students).to(mean.dtype), labels.long()
    votes = F.one_hot(choices, num_classes).sum(dim=0).movedim(-1, 1)
    # Half of a mean is at most 0.5, so it only breaks ties.
    return (votes / num_students).to(mean.dtype), (votes + mean / 2).argmax(dim=1)


def per_class(ensemble: ProbabilityEnsemble) -> ProbabilityEnsemble:
    """Return an ensemble for several labels: each class is a binary task of its own.

    It takes probabilities (S, N, K) and the threshold of each class, and returns scores (N, K) and
    labels (N, K), 1 for a class that is predicted. As in mmpretrain's ``MultiLabelClsHead``, a
    score equal to the threshold is enough.
    """

    def combine(probabilities: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        probabilities = full_precision(probabilities)
        kind = np.float32 if probabilities.dtype == torch.float32 else np.float64
        below = float(np.nextafter(kind(threshold), kind(0)))
        scores, labels = ensemble(probabilities.flatten(1).unsqueeze(2), below)
        return scores.reshape(probabilities.shape[1:]), labels.reshape(probabilities.shape[1:])

    return combine
