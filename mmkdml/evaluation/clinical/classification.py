"""Clinical metrics of classifiers, from scores and classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmkdml.evaluation.foreground import nan_mean
from mmkdml.evaluation.member_metrics import member_views
from mmkdml.evaluation.predictions import Predictions, class_scores, predictions_of, truth_of
from mmkdml.registry import METRICS


@METRICS.register_module()
class ClinicalClassification(BaseMetric):
    """ROC curves, F1 and Brier score of each class, for each member and the ensemble.

    Keys are ``<name>/auc/<measure>``, means over the classes, and
    ``<name>/per_class/<measure>_<class>``, one class against the others:

    - ``AUROC``, the area under the ROC curve, and ``AUPRC``, the average precision, in percent;
    - ``sensitivity_at_95``, the highest sensitivity at a specificity of at least 95 %, in percent;
    - ``F1`` in percent, of the predicted classes;
    - ``balanced_accuracy``, the mean sensitivity of the classes, in percent; no value by class. If
      images can have several classes, the mean of sensitivity and specificity of each of them;
    - ``Brier``, the mean squared error of the probabilities, a fraction. With more than two
      classes of which an image has one, it is the sum over the classes, as in scikit-learn.

    A class without images, or without others, has no ROC curve: its values are ``nan`` and excluded
    from means. Scores are normalized as in :class:`Calibration`. Works for two, more and several
    classes per image; with several it replaces :class:`MultiLabelAUROC`, whose keys are the same.

    Args:
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: In ``process``, if a sample is of another task, a score is not finite or the
            truth is missing.

    Example:
        >>> from mmkdml.evaluation import ClinicalClassification
        >>> test_evaluator = [dict(type=ClinicalClassification)]
    """

    default_prefix = ''  # keys begin with the member's name

    def __init__(self, collect_device: str = 'cpu') -> None:
        super().__init__(collect_device=collect_device)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Store scores, classes and truth of N samples, as returned by ``predict``."""
        for sample in data_samples:
            truth = truth_of(sample, self.dataset_meta)
            members = {}
            for name, view in member_views(sample).items():
                own = predictions_of(view, name, self.dataset_meta)
                if own.of_pixels:
                    raise ValueError(
                        'ClinicalClassification: expected classes of images, got masks. Use '
                        'ClinicalSegmentation'
                    )
                members[name] = class_scores(own, view), _one_hot(own.labels, own)
            self.results.append((_one_hot(truth, own), members, own.of_classes))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the values from scores and classes of all images."""
        if not results:
            return {}
        truth, multi_label = torch.stack([one[0] for one in results]), results[0][2]
        number = truth.shape[1]
        names = (self.dataset_meta or {}).get('classes') or range(number)
        metrics = {}
        for member in results[0][1]:
            scores, pred = (
                torch.stack([one[1][member][side] for one in results]) for side in range(2)
            )
            values = {**_ranked(scores, truth), **_counted(pred, truth, multi_label)}
            values['Brier'] = (scores.double() - truth).square().mean(0)
            for key, of_classes in values.items():
                metrics[f'{member}/auc/{key}'] = nan_mean(of_classes.numpy())
                if key == 'balanced_accuracy':
                    continue
                for name, value in zip(names, of_classes.tolist(), strict=True):
                    metrics[f'{member}/per_class/{key}_{name}'] = value
            if not multi_label and number > 2:
                metrics[f'{member}/auc/Brier'] *= number
        return metrics


def _one_hot(labels: Tensor, own: Predictions) -> Tensor:
    """Return which classes an image has, (K,), long, on the CPU."""
    if own.of_classes:
        return labels.cpu()
    return torch.nn.functional.one_hot(labels.cpu(), own.probabilities.shape[1])[0]


def _ranked(scores: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Compute the values of ROC and precision-recall curves in percent, each (K,)."""
    # Imported here because it takes as long as importing torch.
    from torchmetrics.functional import classification as tm

    number = truth.shape[1]
    with warnings.catch_warnings():  # of classes without a curve, which are nan here
        warnings.simplefilter('ignore', UserWarning)
        values = {
            'AUROC': tm.multilabel_auroc(scores, truth, number, average=None),
            'AUPRC': tm.multilabel_average_precision(scores, truth, number, average=None),
            'sensitivity_at_95': tm.multilabel_sensitivity_at_specificity(
                scores, truth, number, min_specificity=0.95
            )[0],
        }
    both = (truth.amax(0) == 1) & (truth.amin(0) == 0)
    return {
        key: torch.where(both, 100 * value.double(), torch.nan) for key, value in values.items()
    }


def _counted(pred: Tensor, truth: Tensor, multi_label: bool) -> dict[str, Tensor]:
    """Compute F1 and balanced accuracy in percent, each (K,), from classes, (N, K)."""
    hits, occurring, predicted = (one.sum(0).double() for one in (pred & truth, truth, pred))
    accuracy = hits / occurring
    if multi_label:
        accuracy = (accuracy + (1 - truth & 1 - pred).sum(0) / (1 - truth).sum(0)) / 2
    return {'F1': 200 * hits / (occurring + predicted), 'balanced_accuracy': 100 * accuracy}
