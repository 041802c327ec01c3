"""SKD (structured distillation) as in the code of CIRKD: pixels, and region pairs at stride 8."""

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
