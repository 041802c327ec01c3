"""Masked generative distillation (MGD)."""

from __future__ import annotations

from torch import Tensor, nn

from mmkdml.functional.checks import check_feature_maps
from mmkdml.functional.generation import check_mask, masked_generation, random_mask
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class MGDLoss(TransferLoss):
    """Generation of the source's map from a masked map of the learner.

    See :func:`mmkdml.functional.masked_generation`. Two 3x3 convolutions with a ReLU between them
    generate the map. If the channels of the two sides differ, a 1x1 convolution with bias precedes
    the mask. All of them are trained. The reference uses the last map of the backbone:
    classification with weight 7e-5, ``masked='channels'`` and ``ratio=0.15``; segmentation with
    weight 2e-5, ``masked='pixels'`` and ``ratio=0.75``.

    In training mode each call draws a new mask from PyTorch's random generator, which a run seeds
    in every iteration, so that a resumed run draws the same masks. In eval mode nothing is masked.

    Args:
        learner_channels: C of the learner's map.
        source_channels: C' of the source's map.
        ratio: Probability that a pixel or channel is masked, in [0, 1).
        masked: ``'pixels'`` or ``'channels'``.

    Raises:
        ValueError: If an option is invalid, or a side has several taps.
    """

    projects_channels = True

    def __init__(
        self,
        learner_channels: int,
        source_channels: int,
        ratio: float = 0.75,
        masked: str = 'pixels',
    ) -> None:
        super().__init__()
        check_mask(ratio, masked)
        if not (isinstance(learner_channels, int) and isinstance(source_channels, int)):
            raise ValueError(
                'Invalid taps of MGD: expected one of each side, got channels '
                f'{learner_channels} of the learner and {source_channels} of the source. Add one '
                'transfer for each pair of taps'
            )
        self.ratio = ratio
        self.masked = masked
        self.align: nn.Module = nn.Identity()
        if learner_channels != source_channels:
            self.align = nn.Conv2d(learner_channels, source_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(source_channels, source_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(source_channels, source_channels, 3, padding=1),
        )

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Compute the loss from maps (N, C, H, W) and (N, C', H, W)."""
        check_feature_maps(learner, source, same_size=True)
        learner = self.align(learner)
        kept = random_mask(learner, self.ratio if self.training else 0.0, self.masked)
        return masked_generation(learner, source, kept, self.generation)
