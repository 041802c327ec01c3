"""IoU and F1 of the foreground, pooled over the data set and per case."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mmkdml.evaluation.batches import confusion_counts, stacked_labels
from mmkdml.evaluation.boxes.samples import refuse_boxes
from mmkdml.functional.checks import check_choice
from mmkdml.registry import METRICS


@METRICS.register_module()
class ForegroundIoU(BaseMetric):
    """IoU and F1 of the foreground in percent (eq. 12 and 13 of the paper).

    Pixels are counted over the entire data set before the division:
    ``IoU = TP / (TP + FP + FN)`` and ``F1 = 2 TP / (2 TP + FP + FN)``. Class 0 is the background.
    With several foreground classes, ``IoU`` and ``F1`` are means over those that occur, and
    ``IoU_<class>`` and ``F1_<class>`` are reported as well.

    With ``per_case`` the counts are also pooled per case (such as a patient). ``case_IoU`` and
    ``case_F1`` are means over the cases, then over the foreground classes.

    **Missing foreground.** An image without foreground adds only its false positives to the counts.
    A case with foreground in only one of truth and prediction scores 0. A case with foreground in
    neither is undefined (0 / 0): it is skipped, or scores 100 with ``empty='perfect'``. A class
    that does not occur in any truth or prediction is ``nan``, with a warning, and excluded from
    means.

    Args:
        per_case: Metainfo key of the case, such as ``'group'``, or ``'img_path'`` for single
            images. Default: no ``case_`` values.
        empty: ``'skip'`` or ``'perfect'``: treatment of cases without foreground.
        ignore_index: Label of pixels that are ignored.
        collect_device: See mmengine's ``BaseMetric``.
        prefix: See mmengine's ``BaseMetric``. Default: ``'foreground'``.

    Raises:
        ValueError: If ``empty`` is invalid; in ``process`` if the data set has fewer than two
            classes, a sample lacks truth, prediction or the key of the case, sizes differ, or a
            label is not a class.
    """

    default_prefix = 'foreground'

    def __init__(
        self,
        per_case: str | None = None,
        empty: str = 'skip',
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_choice('empty', empty, ('skip', 'perfect'))
        self.per_case = per_case
        self.empty = empty
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of N samples; see :func:`foreground_counts`."""
        classes = foreground_classes(self.dataset_meta)
        for sample in data_samples:
            if self.per_case is not None and self.per_case not in sample:
                raise ValueError(
                    f'Invalid per_case {self.per_case!r}: expected a metainfo key of each sample, '
                    f'got {sorted(sample)} ({_where(sample)}). Add it to meta_keys of the '
                    "pipeline's Pack transform"
                )
        cases = [None if self.per_case is None else one[self.per_case] for one in data_samples]
        counts = foreground_counts(data_samples, len(classes) + 1, self.ignore_index)
        self.results.extend(zip(cases, counts, strict=True))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from case and counts, (3, K - 1), of each sample."""
        foreground = foreground_classes(self.dataset_meta)
        # float64, because float32 is exact only up to 2^24 pixels.
        zeros = np.zeros((3, len(foreground)))
        cases: dict[Any, np.ndarray] = defaultdict(lambda: zeros)
        for case, counts in results:
            cases[case] = cases[case] + counts
        pooled = sum(cases.values(), zeros)
        metrics = foreground_scores(pooled, foreground)
        absent = absent_classes(pooled, foreground)
        if absent:
            print_log(
                f'No pixel of {absent} in truth or prediction of the data set: their '
                f'{self.prefix}/IoU and {self.prefix}/F1 are nan',
                logger='current',
                level=logging.WARNING,
            )
        if self.per_case is not None:
            each = [_percent(counts) for counts in cases.values()]
            for key in ('IoU', 'F1'):
                table = np.array([score[key] for score in each]).reshape(-1, len(foreground))
                if self.empty == 'perfect':
                    table[np.isnan(table)] = 100.0
                means = np.array([nan_mean(column) for column in table.T])
                metrics[f'case_{key}'] = nan_mean(means)
        return metrics


def foreground_classes(dataset_meta: dict | None) -> Sequence[str]:
    """Return the names of all classes except the background, class 0.

    Raises:
        ValueError: If the data set has fewer than two classes.
    """
    classes = (dataset_meta or {}).get('classes') or ()
    if len(classes) < 2:
        raise ValueError(
            "Invalid 'classes' in the metainfo of the data set: expected the background and one or "
            f'more foreground classes, got {classes!r}'
        )
    return classes[1:]


def absent_classes(counts: np.ndarray, foreground: Sequence[str]) -> list[str]:
    """Return the foreground classes without any TP, FP or FN in counts (3, K - 1)."""
    return [name for name, own in zip(foreground, counts.sum(0), strict=True) if own == 0]


def foreground_scores(counts: np.ndarray, foreground: Sequence[str]) -> dict[str, float]:
    """Compute IoU and F1 in percent from TP, FP and FN, (3, K - 1).

    With several classes, ``IoU`` and ``F1`` are means over those that occur, and the values of each
    class are returned as well; ``nan`` for classes that do not occur.
    """
    scores = _percent(counts)
    metrics = {key: nan_mean(values) for key, values in scores.items()}
    if len(foreground) > 1:
        metrics |= {
            f'{key}_{name}': float(value)
            for key, values in scores.items()
            for name, value in zip(foreground, values, strict=True)
        }
    return metrics


def foreground_counts(
    samples: Sequence[dict], num_classes: int, ignore_index: int = 255
) -> np.ndarray:
    """Count TP, FP and FN, (N, 3, K - 1), of each foreground class in N samples.

    Args:
        samples: Dicts with ``pred_sem_seg`` and ``gt_sem_seg``, each with class indices ``data`` of
            shape (1, H, W).
        num_classes: K, including the background.
        ignore_index: Label of pixels that are ignored.

    Raises:
        ValueError: If truth or prediction is missing, sizes differ, or a label is not a class.
    """
    counts = [np.zeros((0, 3, num_classes - 1))]
    for _, group in groupby(samples, lambda one: _masks(one)[0].shape):
        same_size = list(group)
        pred, truth = (
            stacked_labels([one[key]['data'] for one in same_size])
            for key in ('pred_sem_seg', 'gt_sem_seg')
        )
        try:
            both = confusion_counts([truth.to(pred.device), pred], num_classes, ignore_index)
        except ValueError:
            for one in same_size:  # name the image
                checked_labels(one, num_classes, ignore_index)
            raise
        hits = both.diagonal(axis1=1, axis2=2)
        own = np.stack([hits, both.sum(1) - hits, both.sum(2) - hits], axis=1)
        counts.append(own[:, :, 1:].astype(float))
    return np.concatenate(counts)


def checked_labels(sample: dict, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return predicted and true classes of a sample, each (H, W), on the prediction's device.

    Args:
        sample: See :func:`foreground_counts`.
        num_classes: K, including the background.
        ignore_index: Label of pixels that are ignored.

    Raises:
        ValueError: See :func:`foreground_counts`.
    """
    pred, truth = _masks(sample)
    truth = truth.to(pred.device)
    for name, labels in (('prediction', pred), ('truth', truth)):
        known = (labels >= 0) & (labels < num_classes)
        wrong = labels[~known & (truth != ignore_index)].unique().tolist()
        if wrong:
            raise ValueError(
                f'Invalid labels in the {name}: expected 0 to {num_classes - 1} (or '
                f'{ignore_index}, ignored, in the truth), got {wrong} ({_where(sample)})'
            )
    return pred, truth


def _masks(sample: dict) -> tuple[Tensor, Tensor]:
    """Return predicted and true classes of a sample, each (H, W).

    Raises:
        ValueError: If one is missing, or sizes differ.
    """
    refuse_boxes(sample)
    where = _where(sample)
    pred, truth = (_labels(sample, key, where) for key in ('pred_sem_seg', 'gt_sem_seg'))
    if pred.shape != truth.shape:
        raise ValueError(
            f'expected prediction and truth of the same size, got {tuple(pred.shape)} and '
            f'{tuple(truth.shape)} ({where}). mmseg predicts at the original size: move Resize '
            'before the loading of masks in the pipeline'
        )
    return pred, truth


def _where(sample: dict) -> str:
    return sample.get('img_path', 'a sample without img_path')


def _labels(sample: dict, key: str, where: str) -> Any:
    if key not in sample:
        raise ValueError(f'expected {key!r} in each sample, got {sorted(sample)} ({where})')
    return sample[key]['data'].squeeze(0)


def _percent(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute IoU and F1, each (K - 1,), from TP, FP and FN; ``nan`` if all are 0."""
    tp, fp, fn = counts
    with np.errstate(invalid='ignore'):
        return {'IoU': 100 * tp / (tp + fp + fn), 'F1': 200 * tp / (2 * tp + fp + fn)}


def nan_mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not ``nan``, or ``nan``, without NumPy's warning."""
    left = values[~np.isnan(values)]
    return float(left.mean()) if left.size else float('nan')
