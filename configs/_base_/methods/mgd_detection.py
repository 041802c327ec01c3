"""MGD of all levels of the neck, with the settings of its code for one stage, without KD."""

from mmengine.config import read_base

from mmkdml.models import MGDLoss

with read_base():
    from .detection import features, levels, model

loss = dict(type=MGDLoss, masked='pixels', ratio=0.65)
model.update(
    transfers=[
        dict(features, weight=2e-5, loss=loss, source_tap=level, learner_tap=level)
        for level in levels
    ]
)
