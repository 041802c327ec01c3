"""Cross-layer distillation with semantic calibration (SemCKD)."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdml.functional import calibrated_error, pooled_to_smaller, sample_similarities
from mmkdml.functional.checks import check_batch_statistics, check_positive, check_same_shape
from mmkdml.functional.vectors import full_precision
from mmkdml.models.losses.pairs import Channels, Taps, as_list, check_count
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


def _embedding(batch_size: int, width: int) -> nn.Sequential:
    """Build the embedding of a sample's similarities to its batch."""
    return nn.Sequential(
        nn.Linear(batch_size, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
    )


def _projection(learner_channels: int, source_channels: int) -> nn.Sequential:
    width = 2 * source_channels
    return nn.Sequential(
        nn.Conv2d(learner_channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, source_channels, 1, bias=False),
    )


@MODELS.register_module()
class SemCKDLoss(TransferLoss):
    """Each of the learner's layers learns from all source layers, weighted by attention.

    Formula and references: :func:`mmkdml.functional.calibrated_error`. DefangChen/SimKD uses the
    outputs of all stages of both sides with weight 400 (50 for ImageNet). The error of a pair is
    the mean squared difference of one sample's maps, after the larger map is average-pooled to the
    smaller and the learner's is projected.

    Queries and keys embed a layer's similarities between the samples of a batch, so their input has
    the width of a full batch. A smaller batch, e.g. the last of an epoch, is padded with
    similarities of 0; the reference skips it.

    Args:
        learner_channels: Channels of each of the learner's taps.
        source_channels: Channels of each of the source's taps; the number of taps may differ.
        batch_size: N of a full batch in one process.
        softness: Temperature of the attention, > 0.
        factor: The embeddings have ``batch_size // factor`` channels.

    Raises:
        ValueError: If a side has no taps, softness is not positive, or the factor is not in
            [1, batch_size].
    """

    requires_same_shape = False

    def __init__(
        self,
        learner_channels: Channels,
        source_channels: Channels,
        batch_size: int,
        softness: float = 1.0,
        factor: int = 4,
    ) -> None:
        super().__init__()
        check_positive('softness', softness)
        learners, sources = as_list(learner_channels), as_list(source_channels)
        if not (learners and sources):
            raise ValueError(
                'Invalid taps of SemCKD: expected at least one of each side, got '
                f'{len(learners)} of the learner and {len(sources)} of the source'
            )
        if not 1 <= factor <= batch_size:
            raise ValueError(
                f'Invalid factor: expected 1 to batch_size={batch_size}, got {factor}. Use larger '
                'batches or a smaller factor'
            )
        self.batch_size = batch_size
        self.softness = softness
        width = batch_size // factor
        self.queries = nn.ModuleList(_embedding(batch_size, width) for _ in learners)
        self.keys = nn.ModuleList(_embedding(batch_size, width) for _ in sources)
        self.projections = nn.ModuleList(
            _projection(*channels) for channels in product(learners, sources)
        )

    def forward(self, learner: Taps, source: Taps) -> Tensor:
        """Compute the loss from one map (N, C, H, W) per side, or a list of them."""
        learners, sources = as_list(learner), as_list(source)
        check_count(learners, len(self.queries), 'learner')
        check_count(sources, len(self.keys), 'source')
        errors = [
            self._error(*layers, projection)
            for layers, projection in zip(product(learners, sources), self.projections, strict=True)
        ]
        # Similarities can exceed the range of float16, which autocast would use.
        with torch.autocast(errors[0].device.type, enabled=False):
            return calibrated_error(
                self._embedded(learners, self.queries),
                self._embedded(sources, self.keys),
                torch.stack(errors, dim=1).unflatten(1, (len(learners), len(sources))),
                self.softness,
            )

    def _error(self, learner: Tensor, source: Tensor, projection: nn.Module) -> Tensor:
        """Compute the mean squared difference of two maps per sample, (N,)."""
        learner, source = pooled_to_smaller(learner, source)
        check_batch_statistics(learner, self.training)
        learner = projection(learner)
        check_same_shape(learner, source, 'SemCKD')
        return (full_precision(learner) - full_precision(source)).square().flatten(1).mean(dim=1)

    def _embedded(self, layers: list[Tensor], embeddings: nn.ModuleList) -> Tensor:
        """Embed L maps of N samples as (N, L, width)."""
        missing = self.batch_size - len(layers[0])
        if missing < 0:
            raise ValueError(
                f'Invalid batch of SemCKD: expected at most batch_size={self.batch_size} samples, '
                f"got {len(layers[0])}. Set batch_size to the data loader's"
            )
        similarities = [F.pad(sample_similarities(layer), (0, missing)) for layer in layers]
        return torch.stack(
            [embed(rows) for embed, rows in zip(embeddings, similarities, strict=True)], dim=1
        )
