"""Similarity-preserving distillation as in the code of SimKD: last feature maps."""

from mmengine.config import read_base

from mmkdml.models import SimilarityPreservingLoss

with read_base():
    from .classification import features, model, predictions

model.update(
    transfers=[predictions, dict(features, weight=3000.0, loss=dict(type=SimilarityPreservingLoss))]
)
