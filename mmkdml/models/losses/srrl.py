"""Softmax regression representation learning (SRRL)."""

from __future__ import annotations

from torch import Tensor, nn

from mmkdml.functional import softmax_regression
from mmkdml.functional.checks import check_at_least, check_batch_statistics, check_choice
from mmkdml.functional.regression import Classifier, channel_means
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS

SRRL_REFERENCES = ('simkd', 'origin')


@MODELS.register_module()
class SRRLLoss(TransferLoss):
    """SRRL with a connector (1x1 conv, batch norm, ReLU) on the learner's features.

    See :func:`mmkdml.functional.softmax_regression`.

    Args:
        learner_channels: C of the learner's features.
        source_channels: C of the source's features, the input of its classifier.
        reference: ``'simkd'``: the connector is applied to the pooled features
            (DefangChen/SimKD:models/util.py). ``'origin'``: it is applied to the last map, with an
            initialization for its ReLU, and the result is pooled (jingyang2017/KD_SRRL). Both
            references use weight 1.
        weight: Weight of the logits' difference relative to the features', >= 0.

    Raises:
        ValueError: If the reference is unknown or the weight is negative.
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
        check_choice('reference', reference, SRRL_REFERENCES)
        check_at_least('weight', weight, 0)
        self.reference = reference
        self.weight = weight
        convolution = nn.Conv2d(learner_channels, source_channels, 1, bias=False)
        if reference == 'origin':
            nn.init.kaiming_normal_(convolution.weight, mode='fan_out', nonlinearity='relu')
        self.connector = nn.Sequential(
            convolution, nn.BatchNorm2d(source_channels), nn.ReLU(inplace=True)
        )

    def forward(self, learner: Tensor, source: Tensor, classifier: Classifier) -> Tensor:
        """Compute the loss from maps (N, C, H, W) or vectors (N, C) of both sides.

        Args:
            learner: The learner's features.
            source: The source's features.
            classifier: The source's classifier, (N, C) -> (N, K), with frozen parameters.
        """
        features = channel_means(learner) if self.reference == 'simkd' else learner
        if features.ndim == 2:
            features = features[..., None, None]
        check_batch_statistics(features, self.training)
        return softmax_regression(self.connector(features), source, classifier, self.weight)
