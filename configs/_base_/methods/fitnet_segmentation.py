"""FitNet as in the code of CIRKD."""

from mmengine.config import read_base

from mmkdml.models import FeatureMSELoss, LinearProjector

with read_base():
    from .segmentation import last_map, model, predictions

model.update(
    transfers=[
        predictions,
        dict(
            last_map,
            weight=10.0,
            loss=dict(type=FeatureMSELoss),
            projector=dict(type=LinearProjector, bias=False),
        ),
    ]
)
