"""Double similarity distillation as in the code of CIRKD, with a middle map as auxiliary logits."""

from mmengine.config import read_base

from mmkdml.models import CategorySimilarityLoss, PixelSimilarityLoss

with read_base():
    from .segmentation import features, model, predictions

maps = ['decode_head.blocks.2', 'decode_head.blocks.4', 'decode_head.conv_seg']
model.update(
    transfers=[
        dict(
            features,
            weight=1000.0,
            loss=dict(type=PixelSimilarityLoss),
            source_tap=maps,
            learner_tap=maps,
        ),
        dict(predictions, weight=10.0, loss=dict(type=CategorySimilarityLoss)),
    ]
)
