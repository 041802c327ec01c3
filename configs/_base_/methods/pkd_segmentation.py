"""PKD of all decoder maps, with the weight of mmrazor for one-stage detectors, without KD."""

from mmengine.config import read_base

from mmkdml.models import PKDLoss

with read_base():
    from .segmentation import features, model

blocks = [f'decode_head.blocks.{block}' for block in range(5)]
model.update(
    transfers=[
        dict(features, weight=10.0, loss=dict(type=PKDLoss), source_tap=blocks, learner_tap=blocks)
    ]
)
