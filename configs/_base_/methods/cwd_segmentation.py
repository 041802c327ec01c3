"""Channel-wise distillation of maps and logits, CIRKD's code."""

from mmengine.config import read_base

from mmkdml.models import ChannelWiseLoss, LinearProjector

with read_base():
    from .segmentation import last_map, model, predictions

model.update(
    transfers=[
        predictions,
        dict(
            last_map,
            weight=50.0,
            loss=dict(type=ChannelWiseLoss),
            projector=dict(type=LinearProjector, bias=False),
        ),
        dict(predictions, weight=3.0, loss=dict(type=ChannelWiseLoss)),
    ]
)
