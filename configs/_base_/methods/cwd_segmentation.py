"""Channel-wise distillation of feature maps and logits as in the code of CIRKD, no projector."""

from mmengine.config import read_base

from mmkdml.models import ChannelWiseLoss

with read_base():
    from .segmentation import last_map, model, predictions

model.update(
    transfers=[
        predictions,
        dict(last_map, weight=50.0, loss=dict(type=ChannelWiseLoss)),
        dict(predictions, weight=3.0, loss=dict(type=ChannelWiseLoss)),
    ]
)
