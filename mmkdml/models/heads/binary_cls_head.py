"""Classification head for two classes with one logit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from mmkdml.registry import MODELS


@MODELS.register_module()
class BinaryLinearClsHead(LinearClsHead):
    """Linear head with one logit and a sigmoid, trained with binary cross-entropy.

    Predictions have the scores of both classes, so mmpretrain's metrics work. (``LinearClsHead``
    with one class would apply a softmax to a single number.)

    Args:
        in_channels: Length of the feature vectors.
        threshold: Probability above which class 1 is predicted, in (0, 1).
        **kwargs: See :class:`mmpretrain.models.LinearClsHead`.

    Raises:
        ValueError: If the threshold is not in (0, 1), or ``cal_acc`` or ``loss`` is set; in
            training on a CPU, if a label is neither 0 nor 1.
    """

    def __init__(self, in_channels: int, threshold: float = 0.5, **kwargs: Any) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f'threshold must be between 0 and 1, got {threshold}')
        if kwargs.get('cal_acc'):
            raise ValueError(
                'cal_acc is not supported, because one logit does not rank classes; leave it out'
            )
        if 'loss' in kwargs:
            raise ValueError(
                'loss is not supported, because the head uses binary cross-entropy; leave it out, '
                f'got {kwargs["loss"]}'
            )
        super().__init__(num_classes=1, in_channels=in_channels, **kwargs)
        self.threshold = threshold

    def _get_loss(
        self, cls_score: Tensor, data_samples: Sequence[DataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Compute ``dict(loss=scalar)`` of logits (N, 1) and labels in {0, 1}."""
        if 'gt_score' in data_samples[0]:  # shares of both classes, mixed by a batch augmentation
            labels = torch.stack([sample.gt_score for sample in data_samples])[:, 1]
        else:
            labels = torch.cat([sample.gt_label for sample in data_samples])
            if labels.is_cpu and bool(((labels != 0) & (labels != 1)).any()):
                raise ValueError(
                    f'labels must be 0 or 1 for one logit, got {labels.unique().tolist()}'
                )
        return dict(
            loss=F.binary_cross_entropy_with_logits(cls_score.squeeze(1), labels.to(cls_score))
        )

    def _get_predictions(
        self, cls_score: Tensor, data_samples: Sequence[DataSample] | None
    ) -> list[DataSample]:
        """Convert logits (N, 1) to samples with ``pred_score`` (2,) and ``pred_label`` (1,)."""
        positive = cls_score.sigmoid()
        scores = torch.cat([1 - positive, positive], dim=1)
        labels = (positive > self.threshold).long()
        samples = data_samples or [None] * len(scores)
        return [
            (sample or DataSample()).set_pred_score(score).set_pred_label(label)
            for sample, score, label in zip(samples, scores, labels, strict=True)
        ]
