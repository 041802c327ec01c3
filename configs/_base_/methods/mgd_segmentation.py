"""MGD as in its code for Cityscapes: masked pixels of the backbones' maps, and CWD of logits."""

from mmengine.config import read_base

from mmkdml.models import ChannelWiseLoss, MGDLoss

with read_base():
    from .segmentation import features, model, predictions

model.update(
    transfers=[
        dict(predictions, weight=3.0, loss=dict(type=ChannelWiseLoss)),
        dict(
            features,
            weight=2e-5,
            loss=dict(type=MGDLoss, masked='pixels', ratio=0.75),
            source_tap='backbone.layer4',
            learner_tap='backbone.layer4',
        ),
    ]
)
