"""Area under the ROC curve of each class of images with several classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from mmkdml.evaluation.foreground import nan_mean
from mmkdml.evaluation.predictions import is_multi_label, multi_hot
from mmkdml.registry import METRICS


@METRICS.register_module()
class MultiLabelAUROC(BaseMetric):
    """Area under the ROC curve of each class, and its mean, in percent.

    This is the usual measure on chest X-rays (Wang et al. 2017; Rajpurkar et al. 2017): the
    probability that an image with the class has a higher score than one without it. Keys are
    ``multi-label/AUROC``, the mean of the classes that have both kinds of images, and
    ``per_class/AUROC_<class>``, ``nan`` for the other classes.

    Args:
        collect_device: See mmengine's ``BaseMetric``.

    Raises:
        ValueError: In ``process``, if images can only have one class, or a label is invalid.

    Example:
        >>> val_evaluator = dict(type=MemberMetrics, metric=dict(type=MultiLabelAUROC))
    """

    default_prefix = ''  # keys are in two groups

    def __init__(self, collect_device: str = 'cpu') -> None:
        super().__init__(collect_device=collect_device)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store scores and labels of N samples, dicts with ``pred_score`` and the truth."""
        for sample in data_samples:
            if not is_multi_label(sample, self.dataset_meta):
                raise ValueError(
                    'MultiLabelAUROC is for images that can have several classes, got one. Use a '
                    'multi-label head, and for a network without a classroom set '
                    'metainfo=dict(multi_label=True) in the data set'
                )
            self.results.append((sample['pred_score'].float().cpu(), multi_hot(sample).cpu()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the areas from the scores and labels of all images."""
        # Imported here because it takes as long as importing torch.
        from torchmetrics.functional.classification import multilabel_auroc

        scores, truth = (torch.stack(side) for side in zip(*results, strict=True))
        number = scores.shape[1]
        with warnings.catch_warnings():  # of classes without an area, which are nan here
            warnings.simplefilter('ignore', UserWarning)
            areas = multilabel_auroc(scores, truth, number, average=None)
        both = (truth.amax(0) == 1) & (truth.amin(0) == 0)
        values = torch.where(both, 100 * areas, torch.nan).double().numpy()
        names = (self.dataset_meta or {}).get('classes') or range(number)
        return {
            'multi-label/AUROC': nan_mean(values),
            **{
                f'per_class/AUROC_{name}': float(value)
                for name, value in zip(names, values, strict=True)
            },
        }
