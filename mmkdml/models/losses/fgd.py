"""Focal and global distillation of detectors (FGD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkdml.functional import focal_difference
from mmkdml.functional.boxes import Objects
from mmkdml.functional.checks import check_at_least, check_feature_maps
from mmkdml.functional.focal import check_focal_options
from mmkdml.functional.vectors import full_precision
from mmkdml.models.losses.pairs import Channels, Taps, check_count, paired
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


class _GlobalContext(nn.Module):
    """Add the global context of a map to each position (GcBlock, Cao et al., ICCVW 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.attention = nn.Conv2d(channels, 1, 1)
        nn.init.kaiming_normal_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)  # type: ignore[arg-type]
        last = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.transform = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(True), last
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        shares = full_precision(self.attention(features)).flatten(2).softmax(2)
        context = (full_precision(features).flatten(2) * shares).sum(2)[:, :, None, None]
        return full_precision(features) + full_precision(self.transform(context))


class _Level(nn.Module):
    """Align the channels of a pair of maps, and compute the difference of their contexts."""

    def __init__(self, learner_channels: int, source_channels: int) -> None:
        super().__init__()
        self.align: nn.Module = nn.Identity()
        if learner_channels != source_channels:
            self.align = nn.Conv2d(learner_channels, source_channels, 1)
        self.learner_context = _GlobalContext(source_channels)
        self.source_context = _GlobalContext(source_channels)

    def forward(self, learner: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the learner's map with the source's channels, and the difference."""
        learner = self.align(learner)
        return learner, self.learner_context(learner) - self.source_context(source)


@MODELS.register_module()
class FGDLoss(TransferLoss):
    """Focal and global differences of feature maps, summed over pairs of taps; for detection.

    See :func:`mmkdml.functional.focal_difference` for the focal part. The global part is
    ``lambda_`` times the squared difference of the maps with their global context, summed over C,
    H and W and averaged over N. The context of each side is its attention-weighted mean over the
    positions, through a 1x1 convolution to half the channels, layer norm, ReLU and a 1x1
    convolution that is initialized with 0. If the channels of a pair differ, a 1x1 convolution with
    bias precedes both parts. All layers are trained, each pair of taps has its own.

    The reference (yzd-v/FGD) uses all levels of the feature pyramid, ``neck.fpn_convs.0`` to
    ``neck.fpn_convs.4``, with weight 1. The defaults are its values for RetinaNet, GFL and
    RepPoints. FCOS: ``temperature=0.8``, ``alpha=1.6e-3``, ``beta=gamma=8e-4``, ``lambda_=8e-6``.
    Two-stage detectors: ``alpha=gamma=5e-5``, ``beta=2.5e-5``, ``lambda_=5e-7``.

    Args:
        learner_channels: Channels of each of the learner's taps.
        source_channels: Channels of each of the source's taps.
        temperature: T > 0 of the attention.
        alpha: Weight of the objects, >= 0.
        beta: Weight of the background, >= 0.
        gamma: Weight of the attention, >= 0.
        lambda_: Weight of the global part, >= 0.

    Raises:
        ValueError: If an option is invalid, or the numbers of taps differ.
    """

    requires_same_shape = False
    needs_truth = True
    for_detection = True

    def __init__(
        self,
        learner_channels: Channels,
        source_channels: Channels,
        temperature: float = 0.5,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 5e-4,
        lambda_: float = 5e-6,
    ) -> None:
        super().__init__()
        check_focal_options(temperature, alpha, beta, gamma)
        check_at_least('lambda_', lambda_, 0)
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.lambda_ = lambda_
        self.levels = nn.ModuleList(
            _Level(*channels) for channels in paired(learner_channels, source_channels)
        )

    def forward(self, learner: Taps, source: Taps, truth: Sequence[Objects]) -> Tensor:
        """Compute the loss from one map (N, C, H, W) per side, or a list of them, and boxes."""
        if isinstance(truth, Tensor):
            raise ValueError(
                'Invalid ground truth of FGDLoss: expected the boxes of each image, which only '
                f'detection has, got labels {tuple(truth.shape)}. Use another loss'
            )
        pairs = paired(learner, source)
        check_count(pairs, len(self.levels), 'learner')
        boxes = [one.boxes for one in truth]
        terms = [
            self._difference(level, *pair, boxes)
            for level, pair in zip(self.levels, pairs, strict=True)
        ]
        return torch.stack(terms).sum()

    def _difference(
        self, level: nn.Module, learner: Tensor, source: Tensor, boxes: Sequence[Tensor]
    ) -> Tensor:
        check_feature_maps(learner, source, same_size=True)
        learner, contexts = level(learner, source)
        focal = focal_difference(
            learner, source, boxes, self.temperature, self.alpha, self.beta, self.gamma
        )
        return focal + self.lambda_ * contexts.square().sum() / len(learner)
