"""DIST as in its code for Cityscapes, instead of plain KD."""

from mmengine.config import read_base

from mmkdml.models import DISTLoss

with read_base():
    from .segmentation import model, predictions

model.update(
    transfers=[dict(predictions, loss=dict(type=DISTLoss, beta=1.0, gamma=1.0, temperature=1.0))]
)
