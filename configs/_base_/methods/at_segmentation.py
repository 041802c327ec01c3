"""Attention transfer as in the code of CIRKD."""

from mmengine.config import read_base

from mmkdml.models import AttentionTransferLoss

with read_base():
    from .segmentation import last_map, model, predictions

model.update(
    transfers=[predictions, dict(last_map, weight=10000.0, loss=dict(type=AttentionTransferLoss))]
)
