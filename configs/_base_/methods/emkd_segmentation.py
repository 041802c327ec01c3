"""EMKD with its supervised loss: predictions, importance maps, region affinity."""

from mmengine.config import read_base

from mmkdml.models import (
    FocalSmoothDiceLoss,
    ImportanceMapLoss,
    PredictionKLLoss,
    RegionAffinityLoss,
)

with read_base():
    from .segmentation import features, model, predictions

encoder = ['backbone.relu', 'backbone.layer2']  # strides of 2 and 8
low_and_high = dict(features, weight=0.9, source_tap=encoder, learner_tap=encoder)
model['members']['student']['decode_head'].update(loss_decode=dict(type=FocalSmoothDiceLoss))
model.update(
    transfers=[
        dict(
            predictions,
            weight=0.1,
            loss=dict(
                type=PredictionKLLoss,
                temperature=4.0,
                direction='source||learner',
                scale='temperature_squared',
            ),
        ),
        dict(low_and_high, loss=dict(type=ImportanceMapLoss)),
        dict(low_and_high, loss=dict(type=RegionAffinityLoss)),
    ]
)
