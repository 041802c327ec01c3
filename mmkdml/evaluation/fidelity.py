"""Fidelity: agreement of the students with their teacher, right or wrong."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmkdml.evaluation.batches import Batch, batches_of, confusion_counts, divergence_sums
from mmkdml.evaluation.boxes.matching import MatchedBoxes
from mmkdml.evaluation.boxes.samples import (
    Boxes,
    TrueBoxes,
    boxes_by_name,
    check_score_threshold,
    has_boxes,
)
from mmkdml.evaluation.foreground import absent_classes, foreground_classes, foreground_scores
from mmkdml.evaluation.predictions import sum_by_name
from mmkdml.names import TEACHER
from mmkdml.registry import METRICS


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Confusion matrix (K, K) of the teacher (rows) and a member, and the summed divergence."""

    confusion: np.ndarray
    divergence: float
    of_pixels: bool

    def __add__(self, other: _Comparison) -> _Comparison:
        return _Comparison(
            self.confusion + other.confusion, self.divergence + other.divergence, self.of_pixels
        )


@METRICS.register_module()
class Fidelity(BaseMetric):
    """Agreement of students and ensemble with the teacher (Tables 11 and 12 of the paper).

    The predictions of the teacher replace the ground truth. Keys are ``<name>/fidelity/<key>``:

    - classification: ``accuracy``, the fraction of images with the label of the teacher (agreement
      in Stanton et al., 2021), in percent; if images can have several classes, each class of an
      image is a prediction, present or absent;
    - segmentation: ``IoU`` and ``F1`` with the masks of the teacher, as in
      :class:`~mmkdml.evaluation.ForegroundIoU` (``nan``, with a warning, if neither side predicts
      a foreground class), and ``agreement``, the fraction of pixels with the label of the teacher;
      in percent;
    - detection: ``AP50``, the average precision at IoU 0.5 with the boxes of the teacher as the
      truth, and ``box_agreement``, the fraction of these boxes that are matched at IoU 0.5 by a
      box of the same class; in percent. Boxes of the teacher count if their score is at least
      ``score_threshold``, and so do those of the student in ``box_agreement``. Both values are
      ``nan``, with a warning, if the teacher has no such boxes;
    - classification and segmentation: ``KL``, D(teacher || student) in nats, averaged over images,
      pixels or classes of images. Probabilities are clamped to at least 1e-7; those of an ensemble
      are normalized.

    Args:
        teacher: Name of the member to compare with. Default: ``'teacher'``; without that member
            (mutual learning, plain networks) no values are reported.
        score_threshold: Lowest score of boxes that count, in [0, 1].
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: If ``score_threshold`` is invalid; in ``process``, if a named teacher does not
            exist, a prediction belongs to no task, or teacher and student differ in size or number
            of classes.

    Example:
        >>> from mmkdml.evaluation import Fidelity, ForegroundIoU, MemberMetrics
        >>> metric = dict(type=MemberMetrics, metric=dict(type=ForegroundIoU))
        >>> test_evaluator = [metric, dict(type=Fidelity)]
    """

    default_prefix = ''  # keys begin with the member's name

    def __init__(
        self, teacher: str | None = None, score_threshold: float = 0.3, collect_device: str = 'cpu'
    ) -> None:
        super().__init__(collect_device=collect_device)
        check_score_threshold(score_threshold)
        self.teacher = teacher
        self.score_threshold = score_threshold

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the predictions of N samples, as returned by ``predict``."""
        if any(map(has_boxes, data_samples)):
            for sample in data_samples:
                found = boxes_by_name(sample)
                teacher = self._teacher_in(found)
                if teacher is None:
                    self.results.append({})
                    continue
                true = found.pop(teacher)
                self.results.append({name: self._match(own, true) for name, own in found.items()})
            return
        for batch in batches_of(data_samples, self.dataset_meta):
            teacher = self._teacher_in(batch.names)
            if teacher is None:
                self.results.extend({} for _ in range(len(batch)))
            else:
                self.results.extend(_compare(batch, teacher))

    def _teacher_in(self, names: Collection[str]) -> str | None:
        """Return the name of the teacher, or None if there is none."""
        name = self.teacher or TEACHER
        if name in names:
            return name
        if self.teacher is None:
            return None
        raise ValueError(
            f'Invalid teacher {self.teacher!r}: expected one of the members, got {list(names)}'
        )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the values from the counts of all samples."""
        if any(isinstance(own, MatchedBoxes) for sample in results for own in sample.values()):
            return self._of_boxes(results)
        values: dict[str, float] = {}
        absent: dict[str, list[str]] = defaultdict(list)  # members by class
        for name, sums in sum_by_name(results).items():
            same = 100 * sums.confusion.trace() / sums.confusion.sum()
            if sums.of_pixels:
                classes, counts = foreground_classes(self.dataset_meta), _counts(sums.confusion)
                own = {**foreground_scores(counts, classes), 'agreement': same}
                for each in absent_classes(counts, classes):
                    absent[each].append(name)
            else:
                own = {'accuracy': same}
            own['KL'] = sums.divergence / sums.confusion.sum()
            values.update({f'{name}/fidelity/{key}': float(own[key]) for key in own})
        for each, names in absent.items():
            print_log(
                f'Fidelity: no pixel of {each!r} is predicted by {self.teacher or TEACHER} and '
                f'{", ".join(names)}. Their fidelity/IoU and fidelity/F1 for this class are nan; '
                'IoU and F1 with the ground truth are not affected',
                logger='current',
                level=logging.WARNING,
            )
        return values

    def _match(self, own: Boxes, teacher: Boxes) -> MatchedBoxes:
        truth = teacher.above(self.score_threshold)
        ignored = np.zeros(len(truth.labels), dtype=bool)
        return MatchedBoxes.of_image(own, TrueBoxes(truth.boxes, truth.labels, ignored))

    def _of_boxes(self, results: list[dict[str, MatchedBoxes]]) -> dict[str, float]:
        values, number = {}, 0
        for name in results[0]:
            boxes = MatchedBoxes.join([sample[name] for sample in results])
            number = len(boxes.true_labels)
            # Boxes below the threshold choose last, so that they do not change other matches.
            matched = (boxes.right & (boxes.scores >= self.score_threshold)).sum()
            values[f'{name}/fidelity/AP50'] = 100 * boxes.average_precision()
            values[f'{name}/fidelity/box_agreement'] = (
                float(100 * matched / number) if number else math.nan
            )
        if not number:
            print_log(
                f'Fidelity: {self.teacher or TEACHER} has no box with a score of at least '
                f'{self.score_threshold}. fidelity/AP50 and fidelity/box_agreement are nan',
                logger='current',
                level=logging.WARNING,
            )
        return values


def _counts(confusion: np.ndarray) -> np.ndarray:
    """Return TP, FP and FN, (3, K - 1), of the foreground classes of a confusion matrix."""
    hits = confusion.diagonal()
    return np.stack([hits, confusion.sum(0) - hits, confusion.sum(1) - hits])[:, 1:]


def _compare(batch: Batch, teacher: str) -> list[dict[str, _Comparison]]:
    """Compare all others with the teacher in each image."""
    target = batch.probabilities(teacher)
    names = [name for name in batch.names if name != teacher]
    for name in names:
        shapes = [
            (batch.labels(one).shape[1], batch.number_of_classes(one)) for one in (name, teacher)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f'Invalid predictions of {name}: expected the pixels and classes of the teacher, '
                f'got (M, K) {shapes[0]} and {shapes[1]}'
            )
    number = batch.number_of_classes(teacher)
    sides = [[batch.labels(teacher), batch.labels(name)] for name in names]
    confusions = [confusion_counts(side, number) for side in sides]
    divergences = divergence_sums(target, [batch.probabilities(name) for name in names])
    of_pixels = batch.size is not None
    return [
        {
            name: _Comparison(confusion[index].astype(float), float(divergence[index]), of_pixels)
            for name, confusion, divergence in zip(names, confusions, divergences, strict=True)
        }
        for index in range(len(batch))
    ]
