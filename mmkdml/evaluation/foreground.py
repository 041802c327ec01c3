"""IoU and F1 of the foreground, from counts over the whole set and per case."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric

from mmkdml.registry import METRICS

EMPTY = ('skip', 'perfect')


@METRICS.register_module()
class ForegroundIoU(BaseMetric):
    """IoU and F1 of the foreground in percent (eq. 12 and 13 of the paper).

    Pixels are counted over the whole set before anything is divided:
    ``IoU = TP / (TP + FP + FN)`` and ``F1 = 2 TP / (2 TP + FP + FN)``. Class 0 is the background.
    With more than one foreground class, ``IoU`` and ``F1`` are means over the foreground classes
    that occur, and ``IoU_<class>``, ``F1_<class>`` give each.

    With ``per_case`` the counts are also pooled by case (a patient, say); ``case_IoU`` and
    ``case_F1`` are then the mean over cases, of each class, and then over the foreground classes.

    **What has no foreground.** In the counts over the whole set, an image without foreground
    matters only by its false positives. A case with foreground in the truth or in the prediction
    alone scores 0. A case with neither has no score of its own (0 / 0): ``empty`` says whether it
    is left out (``'skip'``) or counts as 100 (``'perfect'``). A class that neither truth nor
    prediction shows anywhere in the set is ``nan``, with a warning, and is left out of means.

    Args:
        per_case: metainfo key of the case, such as ``'group'``, or ``'img_path'`` for every image
            by itself. ``None`` gives no ``case_`` values.
        empty: treatment of cases without foreground in truth and prediction, see above.
        ignore_index: value of the truth whose pixels are not counted.
        collect_device: see mmengine's ``BaseMetric``.
        prefix: see mmengine's ``BaseMetric``; ``'foreground'`` by default.

    Raises:
        ValueError: if ``empty`` is neither of the two; while processing, if the data set names
            fewer than two classes, a sample lacks truth, prediction or the case's key, their
            sizes differ, or a label is no class.
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
        if empty not in EMPTY:
            raise ValueError(f'empty must be one of {EMPTY}, but got {empty!r}')
        self.per_case = per_case
        self.empty = empty
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Counts the pixels of each sample.

        Args:
            data_batch: not used.
            data_samples: N dicts with ``pred_sem_seg`` and ``gt_sem_seg``, each with ``data`` of
                shape (1, H, W) holding class indices.
        """
        classes = foreground_classes(self.dataset_meta)
        for sample in data_samples:
            if self.per_case is not None and self.per_case not in sample:
                raise ValueError(
                    f'per_case={self.per_case!r} must be in the metainfo of each sample, but it '
                    f'has {sorted(sample)} ({_where(sample)}): add it to meta_keys of the '
                    "pipeline's Pack transform"
                )
            case = sample[self.per_case] if self.per_case is not None else None
            counts = foreground_counts(sample, len(classes) + 1, self.ignore_index)
            self.results.append((case, counts))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Turns the counts of all samples into percent.

        Args:
            results: per sample the case and the counts TP, FP, FN, of shape (3, K - 1).

        Returns:
            ``IoU``, ``F1`` and, as configured, ``IoU_<class>``, ``F1_<class>``, ``case_IoU``,
            ``case_F1``, in [0, 100] or ``nan``.
        """
        foreground = foreground_classes(self.dataset_meta)
        # float64: the counts come as float32, which stops at 2^24, a few hundred images.
        none = np.zeros((3, len(foreground)))
        cases: dict[Any, np.ndarray] = defaultdict(lambda: none)
        for case, counts in results:
            cases[case] = cases[case] + counts
        scores = _percent(sum(cases.values(), none))
        absent = np.asarray(foreground)[np.isnan(scores['IoU'])].tolist()
        if absent:
            print_log(
                f'no pixel of {absent} in truth or prediction of the whole set: IoU and F1 '
                'of what is absent are nan',
                logger='current',
                level=logging.WARNING,
            )
        metrics = {key: _mean(values) for key, values in scores.items()}
        if len(foreground) > 1:
            metrics.update(
                {
                    f'{key}_{name}': float(value)
                    for key, values in scores.items()
                    for name, value in zip(foreground, values, strict=True)
                }
            )
        if self.per_case is not None:
            each = [_percent(counts) for counts in cases.values()]
            for key in scores:
                table = np.array([score[key] for score in each]).reshape(-1, len(foreground))
                if self.empty == 'perfect':
                    table[np.isnan(table)] = 100.0
                metrics[f'case_{key}'] = _mean(np.array([_mean(column) for column in table.T]))
        return metrics


def foreground_classes(dataset_meta: dict | None) -> Sequence[str]:
    """Names of the classes behind the background, class 0.

    Raises:
        ValueError: if the data set names fewer than two classes.
    """
    classes = (dataset_meta or {}).get('classes') or ()
    if len(classes) < 2:
        raise ValueError(
            "the metainfo of the data set must have 'classes', the background "
            f'and at least one more, but got {classes!r}'
        )
    return classes[1:]


def foreground_counts(sample: dict, num_classes: int, ignore_index: int = 255) -> np.ndarray:
    """Counts the pixels of one sample.

    Args:
        sample: has ``pred_sem_seg`` and ``gt_sem_seg``, each with ``data`` of shape (1, H, W)
            holding class indices.
        num_classes: K, the background included.
        ignore_index: value of the truth whose pixels are not counted.

    Returns:
        TP, FP and FN of each foreground class, of shape (3, K - 1).

    Raises:
        ValueError: if truth or prediction is missing, their sizes differ, or a label is no class.
    """
    where = _where(sample)
    pred, truth = (_labels(sample, key, where) for key in ('pred_sem_seg', 'gt_sem_seg'))
    truth = truth.to(pred.device)
    if pred.shape != truth.shape:
        raise ValueError(
            f'prediction and truth must have one size, but got {tuple(pred.shape)} and '
            f'{tuple(truth.shape)} ({where}): mmseg predicts at the original size, so '
            'Resize must come before LoadAnnotations in the pipeline'
        )
    # intersect_and_union leaves other values out of the counts without a word.
    for name, labels in (('prediction', pred), ('truth', truth)):
        known = (labels >= 0) & (labels < num_classes)
        wrong = labels[~known & (truth != ignore_index)].unique().tolist()
        if wrong:
            raise ValueError(
                f'labels must be 0 to {num_classes - 1} (or {ignore_index}, '
                f'ignored, in the truth), but the {name} has {wrong} ({where})'
            )
    both, _, in_pred, in_truth = IoUMetric.intersect_and_union(
        pred, truth, num_classes, ignore_index
    )
    tp, pred_area, truth_area = (area[1:].numpy() for area in (both, in_pred, in_truth))
    return np.stack([tp, pred_area - tp, truth_area - tp])


def _where(sample: dict) -> str:
    return sample.get('img_path', 'a sample without img_path')


def _labels(sample: dict, key: str, where: str) -> Any:
    if key not in sample:
        raise ValueError(f'each sample must have {key!r}, but it has {sorted(sample)} ({where})')
    return sample[key]['data'].squeeze(0)


def _percent(counts: np.ndarray) -> dict[str, np.ndarray]:
    """IoU and F1 of each class, each (K - 1,), from TP, FP and FN; ``nan`` where all are 0."""
    tp, fp, fn = counts
    with np.errstate(invalid='ignore'):
        return {'IoU': 100 * tp / (tp + fp + fn), 'F1': 200 * tp / (2 * tp + fp + fn)}


def _mean(values: np.ndarray) -> float:
    """Mean of what is not ``nan``; ``nan``, without numpy's warning, if nothing is left."""
    left = values[~np.isnan(values)]
    return float(left.mean()) if left.size else float('nan')
