"""FitNet as in the code of SimKD: the first stage, without separate hint training."""

from mmengine.config import read_base

from mmkdml.models import ConvReg, FitNetLoss

with read_base():
    from .classification import features, model, predictions

model.update(
    transfers=[
        predictions,
        dict(
            features,
            weight=100.0,
            loss=dict(type=FitNetLoss),
            projector=dict(type=ConvReg),
            source_tap='backbone.layer1',
            learner_tap='backbone.layer1',
        ),
    ]
)
