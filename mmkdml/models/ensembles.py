"""Ensembles of students: probabilities in, one answer out.

Each takes the class probabilities (S, N, K, ...) of S students, and gives scores (N, K, ...) and
labels (N, ...). With K = 1 the probability is the foreground's, and a label is 1 above the
threshold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Ensemble = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def decide(scores: Tensor, threshold: float) -> Tensor:
    """Labels (N, ...) from scores (N, K, ...): the highest, or above the threshold if K = 1."""
    return (scores > threshold).squeeze(1).long() if scores.shape[1] == 1 else scores.argmax(dim=1)


def max_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """For each class the highest probability any student gives it (paper, section 3.2)."""
    scores = probabilities.amax(dim=0)
    return scores, decide(scores, threshold)


def union_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """The union of the students' masks (paper, section 3.3).

    For one foreground class a pixel is foreground where any student says so, be it with one logit
    or with two classes (the first being the background). With more classes, masks of different
    students can claim one pixel; there the highest probability per class decides.
    """
    if probabilities.shape[2] != 2:
        return max_ensemble(probabilities, threshold)
    foreground = probabilities[:, :, 1].amax(dim=0)
    scores = torch.stack([1 - foreground, foreground], dim=1)
    # From the masks, for 1 - foreground can tie by rounding where no student saw a tie.
    return scores, probabilities.argmax(dim=2).amax(dim=0)


def mean_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """The mean of the students' probabilities."""
    scores = probabilities.mean(dim=0)
    return scores, decide(scores, threshold)


def vote_ensemble(probabilities: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """The label most students choose; a tie goes to the label with the higher mean probability.

    The scores are shares of votes.
    """
    num_students, _, num_classes = probabilities.shape[:3]
    choices = torch.stack([decide(student, threshold) for student in probabilities])
    mean = probabilities.mean(dim=0)
    if num_classes == 1:
        votes = choices.sum(dim=0)
        tie = 2 * votes == num_students
        labels = (2 * votes > num_students) | (tie & (mean.squeeze(1) > threshold))
        return (votes.unsqueeze(1) / num_students).to(mean.dtype), labels.long()
    votes = F.one_hot(choices, num_classes).sum(dim=0).movedim(-1, 1)
    # A mean is at most 1, so half of it never outweighs a vote.
    return (votes / num_students).to(mean.dtype), (votes + mean / 2).argmax(dim=1)


ENSEMBLES: dict[str, Ensemble] = {
    'max': max_ensemble,
    'union': union_ensemble,
    'mean': mean_ensemble,
    'vote': vote_ensemble,
}
