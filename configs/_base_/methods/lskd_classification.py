"""Plain KD of standardized logits (LSKD) as in its code for ImageNet.

For at least three classes: two standardized logits are constant.
"""

from mmengine.config import read_base

from mmkdml.models import LSKDLoss

with read_base():
    from .classification import model, predictions

softened = dict(predictions['loss'], temperature=2.0)
model.update(transfers=[dict(predictions, weight=9.0, loss=dict(type=LSKDLoss, loss=softened))])
