"""PKD of the last feature maps, with the weight of mmrazor for one-stage detectors, without KD."""

from mmengine.config import read_base

from mmkdml.models import PKDLoss

with read_base():
    from .classification import features, model

model.update(transfers=[dict(features, weight=10.0, loss=dict(type=PKDLoss))])
