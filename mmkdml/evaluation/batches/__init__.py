"""Predictions of a batch for metrics, computed once and shared by all of them."""

from mmkdml.evaluation.batches.batch import Batch, batches_of, stacked_labels
from mmkdml.evaluation.batches.counts import (
    binned,
    confusion_counts,
    divergence_sums,
    equal_to,
    first_cells,
    reliability_counts,
    row_counts,
)

__all__ = [
    'Batch',
    'batches_of',
    'binned',
    'confusion_counts',
    'divergence_sums',
    'equal_to',
    'first_cells',
    'reliability_counts',
    'row_counts',
    'stacked_labels',
]
