"""Softmax regression representation learning (SRRL)."""

from __future__ import annotations

from torch import Tensor, nn

from mmkdml.functional import softmax_regression
from mmkdml.functional.regression import Classifier, channel_means, check_weight
from mmkdml.functional.shapes import check_batch_statistics
from mmkdml.functional.structure import check_reference
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS

SRRL_REFERENCES = ('simkd', 'origin')


@MODELS.register_module()
class SRRLLoss(TransferLoss):
    """:func:`mmkdml.functional.softmax_regression` behind a connector: 1x1 conv, batch norm, ReLU.

    Args:
        learner_channels: C of the learner's features.
        source_channels: C of the source's features, which its classifier takes.
        reference: ``'simkd'``: the connector takes the pooled features
            (DefangChen/SimKD:models/util.py). ``'origin'``: it takes the last map, is initialised
            for its ReLU, and the result is pooled (jingyang2017/KD_SRRL). Both have the weight 1.
        weight: Of the difference between logits, relative to that between features.

    Raises:
        ValueError: If the reference is unknown, or the weight is negative.
    """

    requires_same_shape = False
    needs_source_classifier = True

    def __init__(
        self,
        learner_channels: int,
        source_channels: int,
        reference: str = 'simkd',
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_reference(reference, SRRL_REFERENCES)
        check_weight(weight)
        self.reference = reference
        self.weight = weight
        convolution = nn.Conv2d(learner_channels, source_channels, 1, bias=False)
        if reference == 'origin':
            nn.init.kaiming_normal_(convolution.weight, mode='fan_out', nonlinearity='relu')
        self.connector = nn.Sequential(
            convolution, nn.BatchNorm2d(source_channels), nn.ReLU(inplace=True)
        )

    def forward(self, learner: Tensor, source: Tensor, classifier: Classifier) -> Tensor:
        """Maps (N, C, H, W) or vectors (N, C) of both sides -> scalar.

        Args:
            learner: The learner's features.
            source: The source's features.
            classifier: The source's, (N, C) -> (N, K); its parameters must not train.
        """
        features = channel_means(learner) if self.reference == 'simkd' else learner
        if features.ndim == 2:
            features = features[..., None, None]
        check_batch_statistics(features, self.training)
        return softmax_regression(self.connector(features), source, classifier, self.weight)
