"""Channel-wise distillation of all levels of the neck, as in mmrazor, without KD."""

from mmengine.config import read_base

from mmkdml.models import ChannelWiseLoss

with read_base():
    from .detection import features, levels, model

loss = dict(type=ChannelWiseLoss, temperature=1.0)
model.update(
    transfers=[
        dict(features, weight=10.0, loss=loss, source_tap=level, learner_tap=level)
        for level in levels
    ]
)
