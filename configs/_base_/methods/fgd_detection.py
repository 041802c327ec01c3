"""FGD of all levels of the neck, with the weights of its code for RetinaNet, without KD."""

from mmengine.config import read_base

from mmkdml.models import FGDLoss

with read_base():
    from .detection import features, levels, model

model.update(
    transfers=[
        dict(features, weight=1.0, loss=dict(type=FGDLoss), source_tap=levels, learner_tap=levels)
    ]
)
