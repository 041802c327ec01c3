"""MGD as in its code for ImageNet: masked channels of the last feature maps, without KD."""

from mmengine.config import read_base

from mmkdml.models import MGDLoss

with read_base():
    from .classification import features, model

model.update(
    transfers=[dict(features, weight=7e-5, loss=dict(type=MGDLoss, masked='channels', ratio=0.15))]
)
