"""Intra-class feature variation as in the code of CIRKD, without its discriminator."""

from mmengine.config import read_base

from mmkdml.models import IntraClassVariationLoss

with read_base():
    from .segmentation import last_map, model, predictions

model.update(
    transfers=[predictions, dict(last_map, weight=20.0, loss=dict(type=IntraClassVariationLoss))]
)
