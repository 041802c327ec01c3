"""Cross-layer distillation with semantic calibration (SemCKD)."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdml.functional import calibrated_error, pooled_to_smaller, sample_similarities
from mmkdml.functional.divergence import check_same_shape, full_precision
from mmkdml.functional.shapes import check_batch_statistics
from mmkdml.functional.similarity import check_softness
from mmkdml.models.losses.pairs import Channels, Taps, check_count, listed
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.registry import MODELS


def _embedding(batch_size: int, width: int) -> nn.Sequential:
    """Of a sample's similarities to the samples of its batch."""
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
    """Each of the learner's layers learns from all of the source's that it is like.

    Formula and references: :func:`mmkdml.functional.calibrated_error`. DefangChen/SimKD takes the
    outputs of all stages of both sides, with the weight 400 (50 for ImageNet). An error is the mean
    squared difference of one sample's maps, the learner's being projected and the larger one
    averaged to the smaller.

    The layers are told apart by the samples' similarities to each other, so the embeddings are as
    wide as a batch. A smaller batch, as the last of an epoch, counts as one whose other samples are
    like none; the reference skips it.

    Args:
        learner_channels: Of each of the learner's taps.
        source_channels: Of each of the source's taps; the number of taps may differ.
        batch_size: N of a full batch in one process.
        softness: Of the attention, > 0.
        factor: The embeddings have ``batch_size // factor`` channels.

    Raises:
        ValueError: If no tap is given, softness is not positive, or the batch is below the factor.
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
        check_softness(softness)
        learners, sources = listed(learner_channels), listed(source_channels)
        if not (learners and sources):
            raise ValueError('SemCKD needs at least one tap of the learner and one of the source')
        if not 1 <= factor <= batch_size:
            raise ValueError(
                f'factor must be in [1, batch_size = {batch_size}], got {factor}: use larger '
                'batches, or a smaller factor'
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
        """One map (N, C, H, W) or a list of them, of both sides -> scalar."""
        learners, sources = listed(learner), listed(source)
        check_count(learners, len(self.queries), 'learner')
        check_count(sources, len(self.keys), 'source')
        errors = [
            self._error(*layers, projection)
            for layers, projection in zip(product(learners, sources), self.projections, strict=True)
        ]
        # Similarities are beyond float16, to which automatic mixed precision would go.
        with torch.autocast(errors[0].device.type, enabled=False):
            return calibrated_error(
                self._embedded(learners, self.queries),
                self._embedded(sources, self.keys),
                torch.stack(errors, dim=1).unflatten(1, (len(learners), len(sources))),
                self.softness,
            )

    def _error(self, learner: Tensor, source: Tensor, projection: nn.Module) -> Tensor:
        """Two maps -> (N,)."""
        learner, source = pooled_to_smaller(learner, source)
        check_batch_statistics(learner, self.training)
        learner = projection(learner)
        check_same_shape(learner, source, 'SemCKD')
        return (full_precision(learner) - full_precision(source)).square().flatten(1).mean(dim=1)

    def _embedded(self, layers: list[Tensor], embeddings: nn.ModuleList) -> Tensor:
        """L maps of N samples -> (N, L, width)."""
        absent = self.batch_size - len(layers[0])
        if absent < 0:
            raise ValueError(
                f'A batch of {len(layers[0])} came, but batch_size is {self.batch_size}: set it to '
                'that of the data loader'
            )
        similarities = [F.pad(sample_similarities(layer), (0, absent)) for layer in layers]
        return torch.stack(
            [embed(rows) for embed, rows in zip(embeddings, similarities, strict=True)], dim=1
        )
