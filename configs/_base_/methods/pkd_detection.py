"""PKD of the finest levels of the neck, with the weight of mmrazor, without KD."""

from mmengine.config import read_base

from mmkdml.models import PKDLoss

with read_base():
    from .detection import features, levels, model

finest = levels[:4]
model.update(
    transfers=[
        dict(features, weight=10.0, loss=dict(type=PKDLoss), source_tap=finest, learner_tap=finest)
    ]
)
