"""SRRL as in the code of SimKD: pooled last feature maps, classified by the teacher."""

from mmengine.config import read_base

from mmkdml.models import SRRLLoss

with read_base():
    from .classification import features, model, predictions

model.update(transfers=[predictions, dict(features, weight=1.0, loss=dict(type=SRRLLoss))])
