"""Structured distillation, CIRKD's code: pixels, and pairs of regions at a stride of 8."""

from mmengine.config import read_base

from mmkdml.models import PairWiseLoss

with read_base():
    from .segmentation import features, model, predictions

model.update(
    transfers=[
        predictions,
        dict(
            features,
            weight=10.0,
            loss=dict(type=PairWiseLoss),
            source_tap='decode_head.blocks.1',
            learner_tap='decode_head.blocks.1',
        ),
    ]
)
